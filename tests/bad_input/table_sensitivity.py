"""Commands of `lit-prune sensitivity` that cannot work."""

from tests.bad_input.table import Case

__all__ = ["CASES"]

BORING = "--model=lightning.pytorch.demos.boring_classes.BoringModel"

# fmt: off
CASES = [
    Case(("sensitivity",), "Expected the path of a checkpoint after the command, but got none. HINT: `lit-prune sensitivity CHECKPOINT [options]`; `--help` lists the options."),
    Case(("sensitivity", "nowhere.ckpt"), "Expected the path of a file with weights, but got `nowhere.ckpt`, where there is no file. HINT: check the path."),
    Case(("sensitivity", "{files}/text.ckpt"), "Expected a checkpoint or a state dict, but got `{files}/text.ckpt`, which is neither. HINT: give a file that a Trainer or `torch.save` wrote."),
    Case(("sensitivity", "{files}/foreign.ckpt"), "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got those of another network. HINT: name its class with `--model module.Class`.", process=True),
    Case(("sensitivity", "{files}/foreign.ckpt", "--amonts", "0.5"), "Expected a known option, but got `--amonts`. HINT: did you mean `--amounts`."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--amounts"), "Expected a value after `--amounts`, but got none. HINT: give it as the next word."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--amounts", "half"), "Expected every value of `--amounts` to be a number, but got `half`. HINT: separate them by spaces."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--amounts=0.1,0.5"), "Expected every value of `--amounts` to be a number, but got `0.1,0.5`. HINT: separate them by spaces."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--amounts", "0.5", "1"), "Expected `amount` in [0, 1), but got 1.0. HINT: give the fraction of the chosen weights that is to be zero."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--tolerance=-1"), "Expected `--tolerance` of 0 points or more, but got -1.0. HINT: 1.0 lets a layer cost one point."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--tolerance=one"), "Expected `--tolerance` to be a number, but got `one`. HINT: check the value."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--format=xml"), "Expected `--format` to be one of table, json, csv, but got `xml`. HINT: choose one of them."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--split=train"), "Expected `--split` to be one of val, test, but got `train`. HINT: choose one of them."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--limit=few"), "Expected `--limit` to be a whole number or null, but got `few`. HINT: check the value."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--output=map.pdf"), "Expected `--output` to be a PNG file, but got `map.pdf`. HINT: for example `--output layers.png`."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--output="), "Expected `--output` to be a PNG file, but got ``. HINT: for example `--output layers.png`."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--output={files}"), "Expected `--output` to be a PNG file, but got `{files}`. HINT: for example `--output layers.png`."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--output=nowhere/map.png"), "Expected `--output` in a folder that is there, but got `nowhere/map.png`. HINT: make `nowhere` first."),
    Case(("sensitivity", "{files}/foreign.ckpt", "--output={readonly}/map.png"), "Expected to be able to read and write `{readonly}{...}`, but got read-only file system. HINT: free some space, or check whose folder it is; the same command goes on.", status=1),
    Case(("sensitivity", "{files}/foreign.ckpt", BORING, "--layers", "nothing"), "Expected every pattern in `layers` to match a convolution or linear layer, but got `nothing`, which matches none. HINT: names in this model are, for example, `layer`."),
    Case(("sensitivity", "{files}/foreign.ckpt", BORING, "--exclude", "layer"), "Expected at least one convolution or linear layer to choose, but got none in BoringModel. HINT: `layers` and `exclude` leave nothing over, or the model has no such layer."),
    Case(("sensitivity", "{files}/foreign.ckpt", BORING, "--data.source=synthetic", "--limit=3"), "Expected a network that gives logits for images of shape (3, 32, 32), but got RuntimeError (The size of tensor a (2) must match the size of tensor b (3) at non-singleton dimension 2). HINT: score it where its own images are."),
    Case(("sensitivity", "{files}/foreign.ckpt", BORING, "--data.eval_batch_size=0"), "Expected `eval_batch_size` to be a whole number of at least 1, but got 0. HINT: give the number of images per batch."),
]
# fmt: on
