"""Commands of `lit-prune inspect` that cannot work."""

from tests.bad_input.table import Case

__all__ = ["CASES"]

BORING = "--model=lightning.pytorch.demos.boring_classes.BoringModel"

# fmt: off
CASES = [
    # the checkpoint
    Case(("inspect",), "Expected the path of a checkpoint after the command, but got none. HINT: `lit-prune inspect CHECKPOINT [options]`; `--help` lists the options.", process=True),
    Case(("inspect", "--format=json"), "Expected the path of a checkpoint after the command, but got none. HINT: `lit-prune inspect CHECKPOINT [options]`; `--help` lists the options."),
    Case(("inspect", "--format", "json"), "Expected the path of a checkpoint after the command, but got none. HINT: `lit-prune inspect CHECKPOINT [options]`; `--help` lists the options."),
    Case(("inspect", "nowhere.ckpt"), "Expected the path of a file with weights, but got `nowhere.ckpt`, where there is no file. HINT: check the path."),
    Case(("inspect", ""), "Expected the path of a file with weights, but got `.`, where there is no file. HINT: check the path."),
    Case(("inspect", "{files}"), "Expected the path of a file with weights, but got `{files}`, where there is no file. HINT: check the path."),
    Case(("inspect", "{files}/text.ckpt"), "Expected a checkpoint or a state dict, but got `{files}/text.ckpt`, which is neither. HINT: give a file that a Trainer or `torch.save` wrote."),
    Case(("inspect", "{files}/empty.ckpt"), "Expected a checkpoint or a state dict, but got `{files}/empty.ckpt`, which is neither. HINT: give a file that a Trainer or `torch.save` wrote."),
    Case(("inspect", "{files}/image.png"), "Expected a checkpoint or a state dict, but got `{files}/image.png`, which is neither. HINT: give a file that a Trainer or `torch.save` wrote."),
    Case(("inspect", "{files}/truncated.ckpt"), "Expected a whole checkpoint, but got `{files}/truncated.ckpt`, which is truncated or damaged. HINT: copy or write it again."),
    Case(("inspect", "{files}/tensor.pt"), "Expected tensors by name, but got `{files}/tensor.pt`, which holds something else. HINT: save `module.state_dict()`, or give a checkpoint of a Trainer."),
    Case(("inspect", "{files}/nothing.pt"), "Expected tensors by name, but got `{files}/nothing.pt`, which holds something else. HINT: save `module.state_dict()`, or give a checkpoint of a Trainer."),
    Case(("inspect", "{files}/weights.pt"), "Expected a weight of two or more dimensions, but got none in `{files}/weights.pt`. HINT: norms and biases alone make no layer."),
    Case(("inspect", "{files}/odd.ckpt"), "Expected the settings in `{files}/odd.ckpt` to be values by name, but got something else for `lit_prune`. HINT: the file was changed; take another checkpoint of this run."),
    Case(("inspect", "{files}/future-format.ckpt"), "Expected a checkpoint in format 1 or older, but got `{files}/future-format.ckpt` in format 99. HINT: `pip install --upgrade lit-prune` if a newer version wrote it."),
    # the words
    Case(("inspect", "{files}/foreign.ckpt", "more.ckpt"), "Expected an option, which starts with `--`, but got `more.ckpt`. HINT: `--help` lists the options."),
    Case(("inspect", "{files}/foreign.ckpt", "--fromat=json"), "Expected a known option, but got `--fromat`. HINT: did you mean `--format`."),
    Case(("inspect", "{files}/foreign.ckpt", "--data.source=synthetic"), "Expected a known option, but got `--data.source`. HINT: `--help` lists the options."),
    Case(("inspect", "{files}/foreign.ckpt", "--format"), "Expected a value after `--format`, but got none. HINT: give it as the next word."),
    Case(("inspect", "{files}/foreign.ckpt", "--format=xml"), "Expected `--format` to be one of table, json, csv, but got `xml`. HINT: choose one of them."),
    Case(("inspect", "{files}/foreign.ckpt", "--config={files}/key.yaml"), "Expected a known option, but got `--data.sorce`. HINT: `--help` lists the options."),
    # the network
    Case(("inspect", "{files}/foreign.ckpt", "--model=Nothing"), "Expected `--model` to name a class of LightningModule, but got `Nothing`. HINT: give module.Class, of an installed package or of this folder."),
    Case(("inspect", "{files}/foreign.ckpt", "--model=torch.nn.Linear"), "Expected `--model` to name a class of LightningModule, but got `torch.nn.Linear`. HINT: give module.Class, of an installed package or of this folder."),
    Case(("inspect", "{files}/foreign.ckpt", "--model=lit_prune.LitResNet18"), "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got weights without {...} and with `layer.weight`, `layer.bias` as well. HINT: these are weights of another architecture; `stem` changes the shape of the first convolution."),
    # the input
    Case(("inspect", "{files}/foreign.ckpt", "--input_size=32"), "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got those of another network. HINT: name its class with `--model module.Class`."),
    Case(("inspect", "{files}/foreign.ckpt", "--input_size=big"), "Expected `--input_size` to be a whole number or a list or null, but got `big`. HINT: check the value."),
    Case(("inspect", "{files}/foreign.ckpt", BORING, "--input_size=0"), "Expected `input_size` to be made of whole numbers from 1 on, but got 0. HINT: 32 means images of 32x32 pixels; (3, 32, 32) is the same with the channels."),
    Case(("inspect", "{files}/foreign.ckpt", BORING, "--input_size=-1"), "Expected `input_size` to be made of whole numbers from 1 on, but got -1. HINT: 32 means images of 32x32 pixels; (3, 32, 32) is the same with the channels."),
    Case(("inspect", "{files}/foreign.ckpt", BORING, "--input_size=[]"), "Expected `input_size` to be made of whole numbers from 1 on, but got []. HINT: 32 means images of 32x32 pixels; (3, 32, 32) is the same with the channels."),
    Case(("inspect", "{files}/foreign.ckpt", BORING, "--input_size=[3,0]"), "Expected `input_size` to be made of whole numbers from 1 on, but got [3, 0]. HINT: 32 means images of 32x32 pixels; (3, 32, 32) is the same with the channels."),
    Case(("inspect", "{files}/foreign.ckpt", BORING, "--input_size=32"), "Expected `input_size` to be the shape of one input, for a model that does not begin with a convolution of images, but got 32. HINT: give all of its sizes but the batch, for example (784,)."),
    Case(("inspect", "{files}/foreign.ckpt", BORING, "--input_size=[3,3]"), "Expected `input_size` [3, 3] to be one that BoringModel can compute, but got RuntimeError (mat1 and mat2 shapes cannot be multiplied (3x3 and 32x2)). HINT: give the pixels of a side, or the shape of one input."),
    # the pictures
    Case(("inspect", "{files}/foreign.ckpt", "--plot=layers.jpg"), "Expected `--plot` to be a PNG file or a folder that is there, but got `layers.jpg`. HINT: for example `--plot layers.png`; make a folder before it is given."),
    Case(("inspect", "{files}/foreign.ckpt", "--plot="), "Expected `--plot` to be a PNG file or a folder that is there, but got ``. HINT: for example `--plot layers.png`; make a folder before it is given."),
    Case(("inspect", "{files}/foreign.ckpt", "--plot=nowhere/"), "Expected `--plot` to be a PNG file or a folder that is there, but got `nowhere/`. HINT: for example `--plot layers.png`; make a folder before it is given."),
    Case(("inspect", "{files}/foreign.ckpt", "--plot=nowhere/a.png"), "Expected `--plot` in a folder that is there, but got `nowhere/a.png`. HINT: make `nowhere` first."),
    Case(("inspect", "{files}/foreign.ckpt", "--plot={readonly}/a.png"), "Expected to be able to read and write `{readonly}{...}`, but got read-only file system. HINT: free some space, or check whose folder it is; the same command goes on.", status=1),
    Case(("inspect", "{files}/foreign.ckpt", "--plot={readonly}"), "Expected to be able to read and write `{readonly}{...}`, but got read-only file system. HINT: free some space, or check whose folder it is; the same command goes on.", status=1),
]
# fmt: on
