"""Commands of `lit-prune export` that cannot work."""

from tests.bad_input.table import Case

__all__ = ["CASES"]

BORING = "--model=lightning.pytorch.demos.boring_classes.BoringModel"

# fmt: off
CASES = [
    Case(("export",), "Expected the path of a checkpoint after the command, but got none. HINT: `lit-prune export CHECKPOINT [options]`; `--help` lists the options."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx"), "Expected `--output`, which has no default, but got none. HINT: add `--output VALUE`."),
    Case(("export", "{files}/foreign.ckpt", "--output=net.onnx"), "Expected `--format`, which has no default, but got none. HINT: add `--format VALUE`."),
    Case(("export", "{files}/foreign.ckpt", "--format=tflite", "--output=net.out"), "Expected `--format` to be one of onnx, torchexport, safetensors, state_dict, but got `tflite`. HINT: choose one of them.", process=True),
    Case(("export", "{files}/foreign.ckpt", "--format=", "--output=net.out"), "Expected `--format` to be one of onnx, torchexport, safetensors, state_dict, but got ``. HINT: choose one of them."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.out", "--compres"), "Expected a known option, but got `--compres`. HINT: did you mean `--compress`."),
    # the network
    Case(("export", "nowhere.ckpt", "--format=onnx", "--output=net.onnx"), "Expected the path of a file with weights, but got `nowhere.ckpt`, where there is no file. HINT: check the path."),
    Case(("export", "{files}/truncated.ckpt", "--format=onnx", "--output=net.onnx"), "Expected a whole checkpoint, but got `{files}/truncated.ckpt`, which is truncated or damaged. HINT: copy or write it again."),
    Case(("export", "{files}/tensor.pt", "--format=safetensors", "--output=net.out"), "Expected tensors by name, but got `{files}/tensor.pt`, which holds something else. HINT: save `module.state_dict()`, or give a checkpoint of a Trainer."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.onnx"), "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got those of another network. HINT: name its class with `--model module.Class`."),
    Case(("export", "{files}/foreign.ckpt", "--format=torchexport", "--output=net.pt2"), "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got those of another network. HINT: name its class with `--model module.Class`."),
    Case(("export", "{files}/foreign.ckpt", "--format=safetensors", "--output=net.out", "--crop"), "Expected the weights of a LitResNet18 in `{files}/foreign.ckpt`, but got those of another network. HINT: name its class with `--model module.Class`."),
    Case(("export", "{files}/weights.pt", "--format=safetensors", "--output=net.out", "--limit=4"), "Expected the weights of a LitResNet18 in `{files}/weights.pt`, but got those of another network. HINT: name its class with `--model module.Class`."),
    Case(("export", "{files}/foreign.ckpt", "--format=torchexport", "--output=net.pt2", BORING, "--input_size=7"), "Expected a network that takes images of 3x7x7, but got {...}. HINT: give `--input_size`, the size that it was trained at."),
    # where to
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output={files}/foreign.ckpt"), "Expected `--output` beside the checkpoint, but got `{files}/foreign.ckpt`, the same file. HINT: give another name."),
    Case(("export", "{files}/foreign.ckpt", "--format=safetensors", "--output={files}"), "Expected `--output` to be a file, but got the folder `{files}`. HINT: for example `{files}/model.out`."),
    Case(("export", "{files}/foreign.ckpt", "--format=safetensors", "--output=nowhere/net.out"), "Expected `--output` in a folder that is there, but got `nowhere/net.out`. HINT: make `nowhere` first."),
    Case(("export", "{files}/foreign.ckpt", "--format=safetensors", "--output={readonly}/net.out"), "Expected to be able to read and write `{readonly}{...}`, but got {...}. HINT: free some space, or check whose folder it is; the same command goes on.", status=1),
    # options that do not go together
    Case(("export", "{files}/foreign.ckpt", "--format=state_dict", "--output=net.pt", "--crop"), "Expected `--crop` with a format that can say so, but got `state_dict`, which holds tensors alone. HINT: `--format safetensors` keeps the new paddings in its metadata."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.onnx", "--compress"), "Expected `--compress` with safetensors or state_dict, but got `onnx`. HINT: `--format safetensors --compress` writes the weights alone."),
    Case(("export", "{files}/foreign.ckpt", "--format=torchexport", "--output=net.pt2", "--compress"), "Expected `--compress` with safetensors or state_dict, but got `torchexport`. HINT: `--format safetensors --compress` writes the weights alone."),
    Case(("export", "{files}/foreign.ckpt", "--format=safetensors", "--output=net.out", "--batch=3"), "Expected `--batch` with onnx or torchexport, but got `safetensors`. HINT: weights alone have no batch."),
    Case(("export", "{files}/foreign.ckpt", "--format=torchexport", "--output=net.pt2", "--opset=18"), "Expected `--opset` with onnx, but got `torchexport`. HINT: other formats have no such version."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.onnx", "--input_size=64", "--limit=3"), "Expected `--input_size` 32 for the images of the data, but got 64. HINT: leave `--data` and `--limit` out to compare on random images of that size."),
    # values
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.onnx", "--batch=0"), "Expected `--batch` to be at least 1, but got 0. HINT: `--batch dynamic` is for any number of images."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.onnx", "--batch=many"), "Expected `--batch` to be one of dynamic, or a whole number, but got `many`. HINT: choose one of them."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.onnx", "--input_size=0"), "Expected `--input_size` in [1, 4096], but got 0. HINT: it is the height and the width of the images, in pixels."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.onnx", "--input_size=100000"), "Expected `--input_size` in [1, 4096], but got 100000. HINT: it is the height and the width of the images, in pixels."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.onnx", "--opset=7"), "Expected `--opset` in [18, {...}], but got 7. HINT: leave it out for torch's own choice."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.onnx", "--opset=99"), "Expected `--opset` in [18, {...}], but got 99. HINT: leave it out for torch's own choice."),
    Case(("export", "{files}/foreign.ckpt", "--format=onnx", "--output=net.onnx", "--limit=0"), "Expected `--limit` to be at least 1, but got 0. HINT: leave it out to score all images."),
]
