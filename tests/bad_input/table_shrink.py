"""Commands of `lit-prune shrink` that cannot work, and channels that `fit` cannot give."""

from tests.bad_input.table import Case

__all__ = ["CASES"]

# fmt: off
CASES = [
    Case(("shrink",), "Expected the path of a checkpoint after the command, but got none. HINT: `lit-prune shrink CHECKPOINT [options]`; `--help` lists the options."),
    Case(("shrink", "{files}/foreign.ckpt"), "Expected `--ratio`, which has no default, but got none. HINT: add `--ratio VALUE`."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5"), "Expected `--output`, which has no default, but got none. HINT: add `--output VALUE`."),
    Case(("shrink", "{files}/foreign.ckpt", "--output=small.ckpt"), "Expected `--ratio`, which has no default, but got none. HINT: add `--ratio VALUE`."),
    Case(("shrink", "{files}/foreign.ckpt", "--output=small.ckpt", "--ratio=half"), "Expected `--ratio` to be a number, but got `half`. HINT: check the value."),
    Case(("shrink", "{files}/foreign.ckpt", "--output=small.ckpt", "--ratio=0"), "Expected `ratio` in (0, 1), but got 0.0. HINT: 0.5 removes half of the channels."),
    Case(("shrink", "{files}/foreign.ckpt", "--output=small.ckpt", "--ratio=1"), "Expected `ratio` in (0, 1), but got 1.0. HINT: 0.5 removes half of the channels."),
    Case(("shrink", "{files}/foreign.ckpt", "--output=small.ckpt", "--ratio=-0.5"), "Expected `ratio` in (0, 1), but got -0.5. HINT: 0.5 removes half of the channels."),
    Case(("shrink", "{files}/foreign.ckpt", "--output=small.ckpt", "--ratio=nan"), "Expected `--ratio` to be a number, but got `nan`. HINT: check the value."),
    Case(("shrink", "{files}/foreign.ckpt", "--output=small.ckpt", "--ratio=50"), "Expected `ratio` in (0, 1), but got 50.0. HINT: 0.5 removes half of the channels."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=small.ckpt", "--round_to=0"), "Expected `round_to` to be at least 1, but got 0. HINT: 8 suits many processors, 1 rounds nothing."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=small.ckpt", "--round_to=1.5"), "Expected `--round_to` to be a whole number, but got `1.5`. HINT: check the value."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=small.ckpt", "--input_size=0"), "Expected `input_size` to be at least 1, but got 0. HINT: 32 is that of CIFAR-10."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=small.ckpt", "--input_size=big"), "Expected `--input_size` to be a whole number, but got `big`. HINT: check the value."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=small.ckpt"), "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got those of another network. HINT: name its class with `--model module.Class`."),
    Case(("shrink", "{files}/none.ckpt", "--ratio=0.5", "--output=small.ckpt"), "Expected the path of a file with weights, but got `{files}/none.ckpt`, where there is no file. HINT: check the path."),
    Case(("shrink", "{files}/text.ckpt", "--ratio=0.5", "--output=small.ckpt"), "Expected a checkpoint or a state dict, but got `{files}/text.ckpt`, which is neither. HINT: give a file that a Trainer or `torch.save` wrote."),
    Case(("shrink", "{files}/truncated.ckpt", "--ratio=0.5", "--output=small.ckpt"), "Expected a whole checkpoint, but got `{files}/truncated.ckpt`, which is truncated or damaged. HINT: copy or write it again."),
    Case(("shrink", "{files}/weights.pt", "--ratio=0.5", "--output=small.ckpt"), "Expected the weights of a LitResNet18 in `{files}/weights.pt`, but got those of another network. HINT: name its class with `--model module.Class`."),
    Case(("shrink", "{files}/nothing.pt", "--ratio=0.5", "--output=small.ckpt"), "Expected tensors by name, but got `{files}/nothing.pt`, which holds something else. HINT: save `module.state_dict()`, or give a checkpoint of a Trainer."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=nowhere/small.ckpt"), "Expected `--output` in a folder that is there, but got `nowhere/small.ckpt`. HINT: make `nowhere` first."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output={files}/foreign.ckpt"), "Expected `--output` beside the checkpoint, but got `{files}/foreign.ckpt`, the same file. HINT: give another name."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=."), "Expected `--output` to be a file, but got the folder `.`. HINT: for example `model.out`."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output="), "Expected `--output` to be a file, but got nothing. HINT: for example `model.out`."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=small.ckpt", "--rtio=0.5"), "Expected a known option, but got `--rtio`. HINT: did you mean `--ratio`."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=small.ckpt", "--limit=0"), "Expected `--limit` to be at least 1, but got 0. HINT: leave it out to score all images."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=small.ckpt", "--data.sorce=synthetic"), "Expected a known option, but got `--data.sorce`. HINT: did you mean `--data.source`."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output=small.ckpt", "--model=lightning.pytorch.demos.boring_classes.BoringModel"), "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got those of a BoringModel, which would not know how many channels it has left. HINT: `lit_prune.trained.structured.narrowed` removes them from any network, in Python."),
    Case(("shrink", "{files}/foreign.ckpt", "{files}/weights.pt", "--ratio=0.5", "--output=small.ckpt"), "Expected an option, which starts with `--`, but got `{files}/weights.pt`. HINT: `--help` lists the options."),
    Case(("fit", "--model.channels=3"), "Expected `--model.channels` to be names and values or null, but got `3`. HINT: check the value."),
    Case(("fit", '--model.channels={"head.1": 3}'), "Expected `channels` to name layers that decide about channels, but got `head.1`. HINT: those are backbone.conv1, backbone.layer1.0.conv1, backbone.layer1.1.conv1, backbone.layer2.0.conv1, backbone.layer2.1.conv1, backbone.layer3.0.conv1, backbone.layer3.1.conv1, backbone.layer4.0.conv1, backbone.layer4.1.conv1, backbone.layer2.0.conv2, backbone.layer3.0.conv2, backbone.layer4.0.conv2, head.0; all others follow from them."),
    Case(("fit", '--model.channels={"head.0": 0}'), "Expected `channels` of `head.0` in [1, 100], but got 0. HINT: leave it out for the usual number."),
    Case(("fit", '--model.channels={"head.0": "few"}'), "Expected `--model.channels` to be a whole number or null, but got `few`. HINT: check the value."),
    Case(("fit", '--model.channels={"backbone.conv1": 65}'), "Expected `channels` of `backbone.conv1` in [1, 64], but got 65. HINT: leave it out for the usual number."),
    Case(("shrink", "{files}/foreign.ckpt", "--ratio=0.5", "--output={readonly}/small.ckpt"), "Expected to be able to read and write `{readonly}{...}`, but got {...}. HINT: free some space, or check whose folder it is; the same command goes on.", status=1),
]
# fmt: on
