"""`lit-prune shrink`: fewer channels, which makes a network smaller and faster on any machine."""

from collections.abc import Sequence

from jsonargparse import Namespace
from torch import nn

from lit_prune.cli.run_command import run_command
from lit_prune.cli.tables import table
from lit_prune.errors import expected
from lit_prune.functional import sparsity_report, weight_layers
from lit_prune.functional.flops import flops
from lit_prune.models.channels import channels_of
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.cli.parser import check_output, make_checkpoint_parser, parse_checkpoint_command
from lit_prune.trained.network import Network, load_network, save_network
from lit_prune.trained.scoring import accuracy, batches, data_module, typed_data
from lit_prune.trained.structured import check_removal, narrowed

__all__ = ["main", "shrunk"]

_CLASSIFIER = "head.2"


def shrunk(network: Network, ratio: float, input_size: int = 32, round_to: int = 1) -> LitResNet18:
    """Make a network of ours without its channels of least magnitude.

    Args:
        network: A trained LitResNet18; it is left as it is.
        ratio: Fraction of the channels to remove from every layer but the last, in (0, 1).
        input_size: Height and width of its images, in pixels.
        round_to: Numbers of channels become a multiple of this, where a layer has as many.

    Returns:
        The smaller network, in evaluation mode. What was zero in the channels that are left is zero.

    Raises:
        InputError: If the network is another one, or an argument cannot be used.
    """
    model = network.require_model()
    if not isinstance(model, LitResNet18):
        raise expected(
            f"the weights of a LitResNet18 in `{network.path}`",
            f"those of a {type(model).__name__}, which would not know how many channels it has left",
            "`lit_prune.trained.structured.narrowed` removes them from any network, in Python",
        )
    state = narrowed(model, ratio, input_size, [_CLASSIFIER], round_to).state_dict()
    kept = {name: model.hparams[name] for name in ("output", "softmax_scale", "batch_norm")}
    smaller = LitResNet18(**LitResNet18.architecture_of(state), **kept)
    smaller.load_state_dict(state)
    return smaller.eval().requires_grad_(False)


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune shrink`.

    Args:
        argv: The command and its options.

    Returns:
        The exit status: 0, 1 if files could not be written or read on the way, 2 for input that cannot be used.
    """
    return run_command(_shrink, argv)


def _shrink(argv: Sequence[str]) -> None:
    parser = make_checkpoint_parser("shrink", "Remove the channels of least magnitude: a smaller dense network.", data=True)
    parser.add_argument("--ratio", type=float, required=True, help="Fraction of the channels to remove, in (0, 1).")
    parser.add_argument("--output", type=str, required=True, help="The checkpoint to write.")
    parser.add_argument("--input_size", type=int, default=32, help="Height and width of the images, in pixels.")
    parser.add_argument(
        "--round_to", type=int, default=1, help="Keep a multiple of so many channels; AVX-512 likes 16 (default: 1)."
    )
    given = parse_checkpoint_command(parser, argv)
    check_removal(given.ratio, given.round_to, given.input_size)
    output = check_output(given.output, given.checkpoint)
    network = load_network(given.checkpoint, given.model)
    smaller = shrunk(network, given.ratio, given.input_size, given.round_to)
    text = _comparison(network, smaller, given)
    save_network(network, smaller, output, channels=channels_of(smaller.state_dict()))
    print(text)
    print(f"\nwritten: {output}; fine-tune it: lit-prune fit --model.init_from {output}")


def _comparison(network: Network, smaller: LitResNet18, given: Namespace) -> str:
    """Say what became of the network."""
    models: list[nn.Module] = [network.require_model(), smaller]
    layers = [{ref.name: len(ref.tensor) for ref in weight_layers(model)} for model in models]
    rows = [[name, str(number), str(layers[1][name])] for name, number in layers[0].items()]
    reports = [sparsity_report(weight_layers(model)) for model in models]
    computed = [sum(layer.nominal for layer in flops(model, given.input_size).values()) for model in models]
    rows += [
        ["parameters", *(f"{sum(p.numel() for p in model.parameters()):,}" for model in models)],
        ["weights that are zero", *(f"{report.zeros:,}" for report in reports)],
        [f"MFLOPs at {given.input_size}x{given.input_size}", *(f"{count / 1e6:.1f}" for count in computed)],
    ]
    if typed_data(given) or given.limit is not None:
        data = data_module(network, given)
        scores = [accuracy(model, batches(data, "test", given.limit)) for model in models]
        rows.append([f"accuracy on {scores[0].images} test images", *(f"{score.accuracy:.4f}" for score in scores)])
    return table(["outputs of", "before", "after"], rows)
