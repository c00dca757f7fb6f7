"""The text of `lit-prune COMMAND --help`: the options that are used most, and two examples.

The texts are written here, and not made by the parser as for `--help=all`, because the parser takes seconds to import
and to build.
`tests/cli/test_short_help.py` checks that the parser knows every option and accepts every example.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Page(NamedTuple):
    """The short help of one command.

    Attributes:
        usage: Arguments of the command, as in its usage line; optional ones are in brackets.
        options: Descriptions of options, by option and placeholder of its value.
        examples: Two commands. Those that read a checkpoint expect that of the first `lit-prune fit --config quick`.
    """

    usage: str
    options: Mapping[str, str]
    examples: tuple[str, str]


_CONFIG = {"--config FILE": "YAML file with options; a later file overrides an earlier one"}
_MODEL = {"--model CLASS": "your own LightningModule, as module.Class"}
_OWN = {"--model, --data CLASS": "your own LightningModule and LightningDataModule, as module.Class"}
_IMAGES = {
    "--data.source NAME": "cifar10 or synthetic; by default, the images of the run that wrote the file",
    "--data.data_dir FOLDER": "folder into which CIFAR-10 is downloaded (default: data)",
}
_SCORES = {"--limit N": "measure accuracy on at most N images", **_IMAGES}
_OWN_SCORES = {
    **_SCORES,
    **_OWN,
    "--metric NAME": "metric that your own network logs (default: the first whose name contains acc)",
}
_WEIGHTS = {"--layers GLOB ...": "layers to prune (default: all)", "--exclude GLOB ...": "layers not to prune"}
_PARTS = {
    "--criterion NAME": "magnitude (the default), l2, random, lamp, taylor, fisher, snip, grasp or synflow",
    "--structure NAME": "weight (the default), kernel, channel, block:RxC, or N:M, such as 2:4",
    "--seed N": "random seed of the criterion and of its training batches (default: 0)",
}
_MACHINE = {
    "--trainer.accelerator NAME": "auto, cpu or gpu (default: auto)",
    "--trainer.devices N": "number of devices",
    "--trainer.precision NAME": "for example bf16-mixed",
    "--threads N": "number of CPU threads",
}
_LAST = "lightning_logs/quick/version_0/checkpoints/last.ckpt"  # written by the first `lit-prune fit --config quick`


def _scoring(command: str, images: Mapping[str, str], example: str) -> Page:
    options = {
        "--ckpt_path FILE": "checkpoint of the trained network",
        **images,
        "--data.eval_batch_size N": "images per batch",
        **_CONFIG,
        **_OWN,
        **_MACHINE,
        "--name NAME": f"folder for the results, below lightning_logs (default: {command})",
    }
    start = f"lit-prune {command} --ckpt_path {_LAST}"
    return Page("--ckpt_path FILE [options]", options, (start, f"{start} {example}"))


PAGES = {
    "fit": Page(
        "[--config NAME] [options]",
        {
            "--config NAME": "quick, original, or a YAML file with options, such as the config.yaml of a run",
            "--name NAME": "folder of the run, below lightning_logs (default: that of --config, or resnet18)",
            "--resume [FOLDER]": "resume the run in FOLDER, or the newest run of --name; start one if there is none",
            "--model.weights NAME": "initial weights: IMAGENET1K_V1, a file, or null for random ones",
            "--model.init_from FILE": "start from the weights in a checkpoint",
            "--model.optimizer CLASS": "class of torch.optim; --model.optimizer.lr 0.01 sets its argument lr",
            "--model.lr_scheduler CLASS": "class of torch.optim.lr_scheduler, for example CosineAnnealingLR",
            "--data.source NAME": "cifar10 (the default, downloaded if needed) or synthetic",
            "--data.data_dir FOLDER": "folder into which CIFAR-10 is downloaded (default: data)",
            "--data.limit_train N": "train on N images only",
            "--data.batch_size N": "images per batch (default: 128)",
            "--trainer.callbacks+ CLASS": "add a callback: GlobalL1Pruning, LocalL1Pruning, GlobalRandomPruning,\n"
            "RigL, SET, ACDC, LayerFreezing, PruningRemoval, SparsityMonitor, or one of Lightning;\n"
            "--trainer.callbacks.amount 0.3 sets its argument amount",
            "--trainer.callbacks.help CLASS": "list the arguments of a callback",
            "--trainer.max_epochs N": "number of epochs (default: 30)",
            **_MACHINE,
            "--seed_everything N": "random seed (default: 0)",
            **_OWN,
            "--print_config": "print all settings, and do not train",
        },
        (
            "lit-prune fit --config quick",
            "lit-prune fit --config quick --trainer.callbacks+=GlobalL1Pruning --trainer.callbacks.amount=0.3",
        ),
    ),
    "validate": _scoring("validate", _IMAGES, "--trainer.accelerator cpu"),
    "test": _scoring("test", _IMAGES, "--trainer.accelerator cpu"),
    "predict": _scoring(
        "predict",
        {"--data.predict_path PATH": "image, or folder of images (default: the test images)", **_IMAGES},
        "--data.predict_path pictures",
    ),
    "inspect": Page(
        "FILE [options]",
        {
            "--format NAME": "table, json or csv (default: table)",
            "--plot FILE.png": "draw sparsity, weights and FLOPs of each layer, and a histogram of magnitudes",
            "--input_size N": "height and width of the images for which FLOPs are counted, in pixels",
            **_MODEL,
            **_CONFIG,
        },
        (f"lit-prune inspect {_LAST}", f"lit-prune inspect {_LAST} --plot layers.png"),
    ),
    "prune": Page(
        "FILE --amount FRACTION --output FILE [options]",
        {
            "--amount FRACTION": "fraction of all weights to prune, for example 0.3",
            "--output FILE": "checkpoint to write",
            "--allocation NAME": "how much of each layer: global (by score), uniform, erk (by size), or a mapping",
            **_PARTS,
            "--max_layer_sparsity F": "largest fraction of any single layer to prune",
            **_WEIGHTS,
            "--split NAME": "also measure accuracy before and after pruning, on test or val images",
            **_OWN_SCORES,
            **_CONFIG,
        },
        (
            f"lit-prune prune {_LAST} --amount 0.3 --output pruned.ckpt",
            f"lit-prune prune {_LAST} --amount 0.3 --output scored.ckpt --split test",
        ),
    ),
    "sensitivity": Page(
        "FILE [options]",
        {
            "--output FILE.png": "heat map to draw (default: sensitivity.png)",
            "--amounts F ...": "fractions of a layer to prune (default: 0.1 to 0.9, and 0.95)",
            **_PARTS,
            **_WEIGHTS,
            "--tolerance POINTS": "accuracy that the suggested limits may cost, in percentage points (default: 1)",
            "--split NAME": "val or test (default: val)",
            "--format NAME": "table, json or csv (default: table)",
            **_OWN_SCORES,
            **_CONFIG,
        },
        (
            f"lit-prune sensitivity {_LAST}",
            f"lit-prune sensitivity {_LAST} --limit 500 --amounts 0.3 0.6 0.9",
        ),
    ),
    "shrink": Page(
        "FILE --ratio FRACTION --output FILE [options]",
        {
            "--ratio FRACTION": "fraction of the channels of each layer to remove, for example 0.5",
            "--output FILE": "checkpoint to write",
            "--round_to N": "round the numbers of channels to multiples of N",
            "--input_size N": "height and width of the images, in pixels (default: 32)",
            **_SCORES,
            **_CONFIG,
        },
        (
            f"lit-prune shrink {_LAST} --ratio 0.5 --output small.ckpt",
            f"lit-prune shrink {_LAST} --ratio 0.25 --output larger.ckpt --limit 1000",
        ),
    ),
    "export": Page(
        "FILE --format NAME --output FILE [options]",
        {
            "--format NAME": "onnx, torchexport, accelerated, safetensors or state_dict",
            "--output FILE": "file to write",
            "--crop": "remove kernel positions that only see padding: a smaller file, for one image size",
            "--compress": "store only nonzero weights (safetensors, state_dict)",
            "--batch N": "number of images that the file takes at a time (default: any)",
            "--input_size N": "height and width of the images, in pixels (default: 32)",
            **_SCORES,
            **_MODEL,
            **_CONFIG,
        },
        (
            f"lit-prune export {_LAST} --format onnx --output model.onnx",
            f"lit-prune export {_LAST} --format safetensors --output model.safetensors",
        ),
    ),
    "cost": Page(
        "FILE [--against FILE ...] [options]",
        {
            "--against FILE": "another checkpoint to compare with; may be given several times",
            "--batches [N,...]": "batch sizes (default: [1,128])",
            "--rounds N": "number of measurements (default: 11)",
            "--threads N": "number of CPU threads",
            "--input_size N": "height and width of the images, in pixels (default: 32)",
            "--onnx BOOL": "whether to measure in ONNX Runtime too (default: true)",
            "--format NAME": "table or json (default: table)",
            **_OWN_SCORES,
            **_CONFIG,
        },
        (f"lit-prune cost {_LAST}", f"lit-prune cost {_LAST} --batches [1] --rounds 5 --limit 1000"),
    ),
    "study": Page(
        "(--preset NAME | PLAN.yaml) [options]",
        {
            "--preset NAME": "quick (minutes), sparse-training and criteria (an hour),\n"
            "medium (hours), original and full (days)",
            "--dry_run": "only print the experiments and an estimate of the time",
            "--only GLOB ...": "run only experiments with these names, and the experiments they start from",
            "--seeds N ...": "random seeds; every experiment runs once with each seed",
            "--max_epochs N": "number of epochs of every experiment that does not set its own",
            "--weights NAME": "initial weights: IMAGENET1K_V1, a file, or random",
            "--out FOLDER": "folder of the study (default: lightning_logs/NAME)",
            "--jobs N": "number of runs at the same time",
            "--threads N": "number of CPU threads of each run",
            "--ray ADDRESS": "run on a Ray cluster: auto, local or HOST:PORT",
            "--data.NAME VALUE": "set this option of `lit-prune fit` in every experiment; also\n"
            "--model.NAME VALUE and --trainer.NAME VALUE",
        },
        ("lit-prune study --preset quick", "lit-prune study --preset full --dry_run"),
    ),
    "report": Page(
        "FOLDER [options]",
        {
            "--output FILE.md": "file of the report (default: FOLDER/report.md)",
            "--no-figures": "draw no figures",
        },
        (
            "lit-prune report lightning_logs/quick",
            "lit-prune report lightning_logs/quick --output results.md",
        ),
    ),
}


def short_help(command: str, summary: str) -> str:
    """Return the short help of a command, whose purpose `summary` states."""
    page = PAGES[command]
    options = {**page.options, "--help=all": "list all options"}
    width = max(map(len, options)) + 2
    lines = [f"  {name:{width}}{text}".replace("\n", "\n" + " " * (width + 2)) for name, text in options.items()]
    head = [f"usage: lit-prune {command} {page.usage}", "", f"{summary[0].upper()}{summary[1:]}.", "", "options:"]
    return "\n".join([*head, *lines, "", "examples:", *(f"  {example}" for example in page.examples)])
