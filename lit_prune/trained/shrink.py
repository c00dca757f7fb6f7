"""`lit-prune shrink`: remove whole channels, so that a smaller and faster dense network remains."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor, nn

from lit_prune.cli.parser import check_output, make_checkpoint_parser, parse_checkpoint_command
from lit_prune.cli.run_command import run_command
from lit_prune.cli.tables import table
from lit_prune.errors import check_integer, expected, one_line
from lit_prune.functional import sparsity_report, weight_layers
from lit_prune.functional.channels import couple_channels
from lit_prune.functional.cropping import crop_kernels
from lit_prune.functional.extras import import_extra
from lit_prune.functional.plain import plain_copy
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.models.resnet18_channels import channels_of
from lit_prune.trained.flops import count_flops, input_shape
from lit_prune.trained.network import Network, fit_options, load_network, save_network
from lit_prune.trained.scoring import find_data_class, score_split, wants_scores

_CLASSIFIER = "head.2"


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune shrink` and return its exit status."""
    return run_command(_shrink, argv)


def _shrink(argv: Sequence[str]) -> None:
    parser = make_checkpoint_parser(
        "shrink",
        "Remove the channels of smallest magnitude, or those that training has pruned (structure=channel), which gives "
        "a smaller dense network. With --limit or any --data "
        "option, also measure accuracy on test images before and after.",
        data="images",
        data_class=find_data_class(argv),
    )
    parser.add_argument(
        "--ratio",
        type=float,
        help="Fraction of the channels to remove, in (0, 1). Without it, only channels that are entirely zero are "
        "removed.",
    )
    parser.add_argument("--output", type=str, required=True, help="Checkpoint to write.")
    parser.add_argument("--input_size", type=int, default=32, help="Height and width of the images, in pixels.")
    parser.add_argument(
        "--round_to",
        type=int,
        default=1,
        help="Round each layer's number of channels to a multiple of this; 16 suits processors with AVX-512.",
    )
    options = parse_checkpoint_command(parser, argv)
    _check_removal(options.ratio, options.round_to)
    check_integer("input_size", options.input_size, 1, hint="images of CIFAR-10 have 32 pixels a side")
    output = check_output(options.output, options.checkpoint)
    network = load_network(options.checkpoint, options.model)
    smaller = shrink_network(network, options.ratio, options.input_size, options.round_to)
    text = _compare(network, smaller, options)
    save_network(network, smaller, output, channels=channels_of(smaller.state_dict()))
    print(text)
    print(f"\nwritten: {output}; to fine-tune it: lit-prune fit {fit_options(network, output)}")


def shrink_network(
    network: Network, ratio: float | None = None, input_size: int = 32, round_to: int = 1
) -> LitResNet18:
    """Copy a `LitResNet18` without some of its channels; arguments are those of `remove_channels`.

    Returns:
        The smaller network, in evaluation mode and with `requires_grad` False for all parameters. Weights of the
        remaining channels are unchanged, zeros included.

    Raises:
        InputError: If the network is not a `LitResNet18`, or an argument is invalid.
    """
    model = network.require_model()
    if not isinstance(model, LitResNet18):
        raise expected(
            f"the weights of a LitResNet18 in `{network.path}`",
            f"those of a {type(model).__name__}, which cannot be rebuilt with fewer channels",
            "in Python, `lit_prune.trained.shrink.remove_channels` removes channels of other networks too",
        )
    state = remove_channels(model, ratio, input_size, [_CLASSIFIER], round_to).state_dict()
    kept = {name: model.hparams[name] for name in ("output", "softmax_scale", "batch_norm")}
    smaller = LitResNet18(**LitResNet18.architecture_of(state), **kept)
    smaller.load_state_dict(state)
    return smaller.eval().requires_grad_(False)


def remove_channels(
    model: nn.Module, ratio: float | None, input_size: int | Sequence[int], keep: Sequence[str], round_to: int = 1
) -> nn.Module:
    """Copy a model without its channels of smallest magnitude, or without those that are zero.

    Channels that are added to each other, as in residual connections, are removed together. The library torch-pruning
    finds such channels with a dependency graph (Fang et al. 2023, https://arxiv.org/abs/2301.12900). The magnitude of a
    channel is the L1 norm of its weights (Li et al. 2017, https://arxiv.org/abs/1608.08710), averaged over the layer
    that computes the channel and the layers that take the channel as input. Dead taps, kernel positions that only ever
    see padding at `input_size`, are not counted, because training never changes them.

    With a `ratio`, each group of layers whose channels are removed together loses this fraction of its channels. A
    single ranking of all channels could empty narrow layers, because the norms of their channels sum fewer weights.

    Args:
        model: Model of convolutions, batch norms and linear layers, connected by torch functions; not changed.
        ratio: Fraction of the channels to remove, in (0, 1). Of n channels, round((1 - ratio) n) stay, at least one.
            None removes the channels whose weights, biases and norms are zero in all layers that compute them, as
            `Pruning(structure="channel")` leaves them. The outputs stay the same, up to rounding.
        input_size: Height and width of images in pixels, or the shape of one input, such as (784,).
        keep: Names of the layers that keep all output channels, such as the classifier.
        round_to: Round each layer's number of channels to a multiple of this; layers with fewer channels keep all.

    Returns:
        A copy made of torch's own layers (see `lit_prune.functional.plain`), with fewer channels, in evaluation mode.

    Raises:
        InputError: If `ratio` or `round_to` is invalid, no channel is zero and `ratio` is None, `keep` names an unknown
            layer, the forward pass fails for inputs of this size, torch-pruning cannot follow it, or is not installed.
    """
    pruning = _check_removal(ratio, round_to)
    shape = input_shape(model, input_size)
    smaller = plain_copy(model)
    trains = {name: parameter.requires_grad for name, parameter in smaller.named_parameters()}
    layers = dict(smaller.named_modules())
    if unknown := [name for name in keep if name not in layers]:
        raise expected("`keep` to name layers", f"`{unknown[0]}`", "`named_modules()` lists them")
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    inputs = torch.zeros(2, *shape, dtype=dtype)
    graph = _follow_channels(pruning, smaller, inputs)
    if ratio is None:
        chosen = _zero_channels(model, inputs, keep, round_to)
    else:
        ranked = crop_kernels(model, shape[1:], shape[0]) if len(shape) == 3 else plain_copy(model)
        chosen = _rank_channels(pruning, ranked, inputs, keep, ratio, round_to)
    for name, channels in chosen:
        if channels:
            handler = graph.get_pruner_of_module(layers[name]).prune_out_channels
            graph.get_pruning_group(layers[name], handler, channels).prune()
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(trains[name])
    return smaller


def _follow_channels(pruning: Any, model: nn.Module, inputs: Tensor) -> Any:
    """Return torch-pruning's graph of the channels of a model; parameters will require gradients, which it follows."""
    try:
        with torch.enable_grad():
            return pruning.DependencyGraph().build_dependency(model.requires_grad_(True), inputs)
    except Exception as error:  # whatever the forward pass of a third-party network raises
        size = "x".join(map(str, inputs.shape[1:]))
        what = f"a network that takes inputs of {size}, and that torch-pruning can follow"
        raise expected(what, one_line(error), "check `input_size`") from error


def _check_removal(ratio: float | None, round_to: int) -> Any:
    """Check the arguments of `remove_channels`; import and return the library torch-pruning."""
    if ratio is not None and not 0 < ratio < 1:
        raise expected("`ratio` in (0, 1)", ratio, "0.5 removes half of the channels")
    check_integer("round_to", round_to, 1, hint="8 suits many processors, 1 does not round")
    return import_extra("torch_pruning", "structured")


def _zero_channels(model: nn.Module, inputs: Tensor, keep: Sequence[str], round_to: int) -> list[tuple[str, list[int]]]:
    """Return what `_rank_channels` returns, for the channels that are zero; some stay for a multiple of `round_to`."""
    plain = plain_copy(model)
    coupled = couple_channels(plain, inputs, [name for name, _ in plain.named_modules() if name not in keep])
    chosen = []
    for number, (root, zeros) in enumerate(coupled.zero_channels(plain)):
        size = int((coupled.groups == number).sum())
        kept = min(size, max(1, math.ceil((size - len(zeros)) / round_to)) * round_to)
        chosen.append((root, zeros[: size - kept]))
    if not any(zeros for _, zeros in chosen):
        hint = 'train with `Pruning(0.5, structure="channel")`, or choose a `ratio` such as 0.5'
        raise expected("channels that are zero in all layers that compute them", "none", hint)
    return chosen


def _rank_channels(
    pruning: Any, model: nn.Module, inputs: Tensor, keep: Sequence[str], ratio: float, round_to: int
) -> list[tuple[str, list[int]]]:
    """Return, for each group of layers pruned together, its first layer's name and the channels to remove there."""
    layers = dict(model.named_modules())
    names = {layer: name for name, layer in layers.items()}
    graph = _follow_channels(pruning, model, inputs)
    importance = pruning.importance.GroupMagnitudeImportance(p=1, normalizer=None, target_types=[nn.Conv2d, nn.Linear])
    groups = graph.get_all_groups(
        ignored_layers=[layers[name] for name in keep], root_module_types=[nn.Conv2d, nn.Linear]
    )
    ranked = []
    for group in groups:
        scores: Tensor = importance(group)
        kept = min(len(scores), max(round_to, round(len(scores) * (1 - ratio) / round_to) * round_to))
        lowest = scores.argsort(stable=True)[: len(scores) - kept]
        ranked.append((names[group[0].dep.target.module], sorted(lowest.tolist())))
    return ranked


def _compare(network: Network, smaller: LitResNet18, options: Namespace) -> str:
    """Make a table that compares the network before and after the removal of channels."""
    models = [network.require_model(), smaller]
    before, after = ({ref.name: len(ref.tensor) for ref in weight_layers(model)} for model in models)
    rows = [[name, str(outputs), str(after[name])] for name, outputs in before.items()]
    reports = [sparsity_report(weight_layers(model)) for model in models]
    size = options.input_size
    mflops = [sum(layer.nominal for layer in count_flops(model, size).values()) / 1e6 for model in models]
    rows += [
        ["parameters", *(f"{sum(p.numel() for p in model.parameters()):,}" for model in models)],
        ["weights that are zero", *(f"{report.zeros:,}" for report in reports)],
        [f"MFLOPs at {size}x{size}", *(f"{count:.1f}" for count in mflops)],
    ]
    if wants_scores(options):
        scores = [score_split(model, network, options) for model in models]
        rows.append([f"accuracy on {scores[0].images} test images", *(f"{score.accuracy:.4f}" for score in scores)])
    return table(["outputs of", "before", "after"], rows)
