"""Commands of `lit-prune prune` that cannot work."""

from tests.bad_input.table import Case

__all__ = ["CASES"]

BORING = "--model=lightning.pytorch.demos.boring_classes.BoringModel"

# fmt: off
CASES = [
    Case(("prune",), "Expected the path of a checkpoint after the command, but got none. HINT: `lit-prune prune CHECKPOINT [options]`; `--help` lists the options."),
    Case(("prune", "--amount", "0.3", "--output", "out.ckpt"), "Expected the path of a checkpoint after the command, but got none. HINT: `lit-prune prune CHECKPOINT [options]`; `--help` lists the options."),
    Case(("prune", "--amount=0.3", "--output=out.ckpt", "--layers", "a", "{files}/foreign.ckpt"), "Expected a checkpoint, but got none. HINT: put it right after the command: an option that takes several values takes all words after it."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=0.3"), "Expected `--output`, which has no default, but got none. HINT: add `--output VALUE`."),
    Case(("prune", "{files}/foreign.ckpt", "--output=out.ckpt"), "Expected `--amount`, which has no default, but got none. HINT: add `--amount VALUE`."),
    Case(("prune", "nowhere.ckpt", "--amount=0.3", "--output=out.ckpt"), "Expected the path of a file with weights, but got `nowhere.ckpt`, where there is no file. HINT: check the path."),
    Case(("prune", "{files}/text.ckpt", "--amount=0.3", "--output=out.ckpt"), "Expected a checkpoint or a state dict, but got `{files}/text.ckpt`, which is neither. HINT: give a file that a Trainer or `torch.save` wrote."),
    Case(("prune", "{files}/truncated.ckpt", "--amount=0.3", "--output=out.ckpt"), "Expected a whole checkpoint, but got `{files}/truncated.ckpt`, which is truncated or damaged. HINT: copy or write it again."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=0.3", "--output=out.ckpt"), "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got those of another network. HINT: name its class with `--model module.Class`.", process=True),
    Case(("prune", "{files}/foreign.ckpt", "--amount=1", "--output=out.ckpt"), "Expected `amount` in [0, 1), but got 1.0. HINT: give the fraction of the chosen weights that is to be zero."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=-0.1", "--output=out.ckpt"), "Expected `amount` in [0, 1), but got -0.1. HINT: give the fraction of the chosen weights that is to be zero."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=1.5", "--output=out.ckpt"), "Expected `amount` in [0, 1), but got 1.5. HINT: give the fraction of the chosen weights that is to be zero."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=half", "--output=out.ckpt"), "Expected `--amount` to be a number, but got `half`. HINT: check the value."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=nan", "--output=out.ckpt"), "Expected `--amount` to be a number, but got `nan`. HINT: check the value."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=30%", "--output=out.ckpt"), "Expected `--amount` to be a number, but got `30%`. HINT: check the value."),
    # where to
    Case(("prune", "{files}/foreign.ckpt", "--amount=0.3", "--output={files}/foreign.ckpt"), "Expected `--output` beside the checkpoint, but got `{files}/foreign.ckpt`, the same file. HINT: give another name."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=0.3", "--output={files}"), "Expected `--output` to be a file, but got the folder `{files}`. HINT: for example `{files}/model.out`."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=0.3", "--output="), "Expected `--output` to be a file, but got nothing. HINT: for example `model.out`."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=0.3", "--output=nowhere/out.ckpt"), "Expected `--output` in a folder that is there, but got `nowhere/out.ckpt`. HINT: make `nowhere` first."),
    Case(("prune", "{files}/foreign.ckpt", "--amount=0.3", "--output={readonly}/out.ckpt"), "Expected to be able to read and write `{readonly}{...}`, but got read-only file system. HINT: free some space, or check whose folder it is; the same command goes on.", status=1),
    # which weights
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--layers", "nothing"), "Expected every pattern in `layers` to match a convolution or linear layer, but got `nothing`, which matches none. HINT: names in this model are, for example, `layer`."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--layers"), "Expected a value after `--layers`, but got none. HINT: give it as the next word."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--exclude", "layer"), "Expected at least one convolution or linear layer to choose, but got none in BoringModel. HINT: `layers` and `exclude` leave nothing over, or the model has no such layer."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--local", "--max_layer_sparsity=0.5"), "Expected one of `--local` and `--max_layer_sparsity`, but got both. HINT: with `--local` all layers become equally sparse."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--max_layer_sparsity=0.2"), "Expected `max_layer_sparsity` to leave room for an `amount` of 0.3, but got 0.2. HINT: raise the limit or prune less."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--max_layer_sparsity=0"), "Expected `max_layer_sparsity` in (0, 1], but got 0.0. HINT: give the largest fraction of a layer that may be zero, or leave it out."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--seed=1"), "Expected `--random` beside `--seed`, but got `--seed` alone. HINT: the choice by magnitude has no chance in it."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--random", "--seed=-1"), "Expected `--seed` in [0, 4294967295], but got -1. HINT: the choice depends on nothing else."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--random", "--seed=one"), "Expected `--seed` to be a whole number or null, but got `one`. HINT: check the value."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--random=yes"), "Expected `--random` without a value, but got `yes`. HINT: leave the value out."),
    # the images
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--split=train"), "Expected `--split` to be one of val, test, but got `train`. HINT: choose one of them."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--limit=0"), "Expected `--limit` to be at least 1, but got 0. HINT: leave it out to score all images."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--data.source=mnist"), "Expected `--data.source` to be one of cifar10, synthetic, but got `mnist`. HINT: choose one of them."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--data.val_size=-1"), "Expected `val_size` to be a whole number in [1, 49998], but got -1. HINT: leave some of the 50000 training images to train on."),
    Case(("prune", "{files}/foreign.ckpt", BORING, "--amount=0.3", "--output=out.ckpt", "--data.source=synthetic", "--limit=3"), "Expected a network that gives logits for images of shape (3, 32, 32), but got RuntimeError (The size of tensor a (2) must match the size of tensor b (3) at non-singleton dimension 2). HINT: score it where its own images are."),
]
# fmt: on
