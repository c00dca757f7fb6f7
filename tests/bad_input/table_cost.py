"""Commands of `lit-prune cost` that cannot work."""

from tests.bad_input.table import Case

__all__ = ["CASES"]

# fmt: off
CASES = [
    Case(("cost",), "Expected the path of a checkpoint after the command, but got none. HINT: `lit-prune cost CHECKPOINT [options]`; `--help` lists the options."),
    Case(("cost", "{files}/foreign.ckpt"), "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got those of another network. HINT: name its class with `--model module.Class`."),
    Case(("cost", "{files}/none.ckpt"), "Expected the path of a file with weights, but got `{files}/none.ckpt`, where there is no file. HINT: check the path."),
    Case(("cost", "{files}/text.ckpt"), "Expected a checkpoint or a state dict, but got `{files}/text.ckpt`, which is neither. HINT: give a file that a Trainer or `torch.save` wrote."),
    Case(("cost", "{files}/tensor.pt"), "Expected tensors by name, but got `{files}/tensor.pt`, which holds something else. HINT: save `module.state_dict()`, or give a checkpoint of a Trainer."),
    Case(("cost", "{files}/weights.pt"), "Expected the weights of a LitResNet18 in `{files}/weights.pt`, but got those of another network. HINT: name its class with `--model module.Class`."),
    Case(("cost", "{files}/foreign.ckpt", "--rounds=0"), "Expected `rounds` to be at least 1, but got 0. HINT: the median of eleven is steady on most machines."),
    Case(("cost", "{files}/foreign.ckpt", "--rounds=many"), "Expected `--rounds` to be a whole number, but got `many`. HINT: check the value."),
    Case(("cost", "{files}/foreign.ckpt", "--batches=[]"), "Expected `batches` to be different numbers from 1 on, but got []. HINT: [1,128] shows both ends."),
    Case(("cost", "{files}/foreign.ckpt", "--batches=[0,1]"), "Expected `batches` to be different numbers from 1 on, but got [0, 1]. HINT: [1,128] shows both ends."),
    Case(("cost", "{files}/foreign.ckpt", "--batches=[8,8]"), "Expected `batches` to be different numbers from 1 on, but got [8, 8]. HINT: [1,128] shows both ends."),
    Case(("cost", "{files}/foreign.ckpt", "--batches=-8"), "Expected `batches` to be different numbers from 1 on, but got [-8]. HINT: [1,128] shows both ends."),
    Case(("cost", "{files}/foreign.ckpt", "--batches={a: 1}"), "Expected `--batches` to be a whole number or a list, but got `{a: 1}`. HINT: check the value."),
    Case(("cost", "{files}/foreign.ckpt", "--batches=[a]"), "Expected `--batches` to be a whole number, but got `a`. HINT: check the value."),
    Case(("cost", "{files}/foreign.ckpt", "--threads=0"), "Expected `--threads` in [1, 1024], but got 0. HINT: leave it out to use all cores."),
    Case(("cost", "{files}/foreign.ckpt", "--threads=5000"), "Expected `--threads` in [1, 1024], but got 5000. HINT: leave it out to use all cores."),
    Case(("cost", "{files}/foreign.ckpt", "--input_size=0"), "Expected `input_size` to be at least 1, but got 0. HINT: 32 is that of CIFAR-10."),
    Case(("cost", "{files}/foreign.ckpt", "--input_size=-32"), "Expected `input_size` to be at least 1, but got -32. HINT: 32 is that of CIFAR-10."),
    Case(("cost", "{files}/foreign.ckpt", "--format=csv"), "Expected `--format` to be one of table, json, but got `csv`. HINT: choose one of them."),
    Case(("cost", "{files}/foreign.ckpt", "--onnx=perhaps"), "Expected `--onnx` to be true or false, but got `perhaps`. HINT: check the value."),
    Case(("cost", "{files}/foreign.ckpt", "--against={files}/none.ckpt"), "Expected the path of a file with weights, but got `{files}/none.ckpt`, where there is no file. HINT: check the path."),
    Case(("cost", "{files}/foreign.ckpt", "--against={files}/foreign.ckpt"), "Expected `--against` to name other checkpoints, but got `{files}/foreign.ckpt` twice. HINT: leave one of them out."),
    Case(("cost", "{files}/foreign.ckpt", "--against"), "Expected a value after `--against`, but got none. HINT: give it as the next word."),
    Case(("cost", "{files}/foreign.ckpt", "--agianst={files}/weights.pt"), "Expected a known option, but got `--agianst`. HINT: did you mean `--against`."),
    Case(("cost", "{files}/foreign.ckpt", "--limit=-1"), "Expected `--limit` to be at least 1, but got -1. HINT: leave it out to score all images."),
    Case(("cost", "{files}/foreign.ckpt", "--output=x"), "Expected a known option, but got `--output`. HINT: `--help` lists the options."),
    Case(("cost", "{files}/foreign.ckpt", "--model=lightning.pytorch.demos.boring_classes.BoringModel"), "Expected `input_size` to be the shape of one input, for a model that does not begin with a convolution of images, but got 32. HINT: give all of its sizes but the batch, for example (784,)."),
]
# fmt: on
