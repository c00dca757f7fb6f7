"""`lit-prune cost`: exact counts, fair comparisons of time, and conclusions that follow from them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lit_prune import LitResNet18
from lit_prune.errors import InputError
from lit_prune.functional import apply_masks, compute_masks, weight_layers
from lit_prune.functional.masking import masked_parameters
from lit_prune.models.resnet18_channels import FULL_CHANNELS
from lit_prune.trained.cost.latency import Latency
from lit_prune.trained.cost.measure import Comparison, Cost, compare
from lit_prune.trained.cost.text import conclusions, format_json, format_table
from lit_prune.trained.cost.variants import Kind, Variant, has_onnx, make_variants
from lit_prune.trained.flops import LayerFlops
from lit_prune.trained.inputs import image_inputs
from lit_prune.trained.scoring import Score
from tests.training.small import SmallNet

pytestmark = pytest.mark.gate  # latencies take seconds
NARROW = {name: max(4, number // 8) for name, number in FULL_CHANNELS.items()}
IMAGE = image_inputs(3, 32, 32)
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def pruned(model, amount=0.5):
    apply_masks(model, compute_masks(weight_layers(model), amount))
    return model.eval()


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """Variants of one network, half of whose weights are zero, by kind."""
    folder = tmp_path_factory.mktemp("onnx")
    model = pruned(LitResNet18(channels=NARROW))
    return {variant.kind: variant for variant in make_variants("net", model, IMAGE, folder, batches=[3, 1], rounds=1)}


def test_all_variants_compute_the_same(variants):
    assert list(variants) == ["dense", "zeros", "lit-prune", "cropped", "accelerated", "int8", "onnx", "cropped onnx"]
    with torch.inference_mode():
        logits = {
            kind: variant.forward(IMAGES.contiguous(memory_format=variant.layout)) for kind, variant in variants.items()
        }
    for kind in ("lit-prune", "cropped", "accelerated", "onnx", "cropped onnx"):
        torch.testing.assert_close(logits[kind], logits["zeros"], rtol=1e-3, atol=1e-4)
    rounded = (logits["int8"] - logits["zeros"]).abs().max() / logits["zeros"].abs().max()
    assert 1e-5 < rounded < 0.1
    assert not torch.allclose(logits["dense"], logits["zeros"], rtol=1e-2, atol=1e-2)
    assert {variant.network for variant in variants.values()} == {"net"}


def test_modules_of_variants(variants):
    for kind in ("dense", "zeros", "cropped"):
        modules = list(variants[kind].forward.modules())
        own = {type(module).__module__.split(".")[0] for module in modules}
        assert "lit_prune" not in own
        assert any(isinstance(module, nn.Conv2d) for module in modules)
        assert not any(masked_parameters(module) for module in modules)
        assert all(
            p.is_contiguous(memory_format=torch.channels_last)
            for p in variants[kind].forward.parameters()
            if p.dim() == 4
        )
    assert all(bool((parameter != 0).all()) for parameter in _weights(variants["dense"].forward))
    full, zeros = _weights(variants["dense"].forward), _weights(variants["zeros"].forward)
    assert all(torch.equal(a[b != 0], b[b != 0]) for a, b in zip(full, zeros, strict=True))


def _weights(model):
    return [ref.tensor for ref in weight_layers(model)]


def test_counts(variants):
    zeros = variants["zeros"]
    weights = _weights(zeros.forward)
    assert zeros.parameters == sum(p.numel() for p in zeros.forward.parameters())
    dead = sum(int((weight == 0).sum()) for weight in weights)
    others = sum(int((p == 0).sum()) for p in zeros.forward.parameters() if p.dim() < 2)
    assert dead == round(0.5 * sum(weight.numel() for weight in weights))
    assert zeros.nonzero == zeros.parameters - dead - others
    assert (
        zeros.flops.nominal == variants["dense"].flops.nominal == variants["dense"].flops.nonzero > zeros.flops.nonzero
    )
    cropped = variants["cropped"]
    assert 0 < cropped.parameters < 0.6 * zeros.parameters
    assert cropped.flops.nominal < zeros.flops.nominal
    assert variants["cropped onnx"].parameters == cropped.parameters
    assert zeros.compressed is not None
    assert variants["dense"].compressed is not None
    assert zeros.compressed < 0.8 * zeros.bytes
    assert zeros.compressed < 0.8 * variants["dense"].compressed
    assert zeros.bytes == pytest.approx(4 * zeros.parameters, rel=0.3)
    assert 0 < cropped.bytes < zeros.bytes
    assert 0 < variants["cropped onnx"].bytes < variants["onnx"].bytes
    assert variants["onnx"].compressed is None


def test_a_network_without_zeros_has_no_variant_with_zeros(tmp_path):
    found = [variant.kind for variant in make_variants("net", SmallNet().eval(), IMAGE, None)]
    assert found == ["dense", "cropped", "int8"]
    found = [variant.kind for variant in make_variants("net", pruned(SmallNet()), IMAGE, None, reference=False)]
    assert found == ["zeros", "cropped", "int8"]


def test_networks_are_not_changed():
    model = pruned(SmallNet())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    list(make_variants("net", model, IMAGE, None))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert prune.is_pruned(model)


def test_a_small_network_is_faster_than_a_large_one():
    torch.manual_seed(0)
    large = pruned(LitResNet18(channels={name: number // 2 for name, number in FULL_CHANNELS.items()}))
    small = LitResNet18(channels=NARROW).eval()
    found = compare({"large": large, "small": small}, 32, [1, 16], rounds=3, onnx=False, turn=0.01)
    kinds = [(cost.variant.network, cost.variant.kind) for cost in found.costs]
    assert kinds == [
        *(("large", kind) for kind in ("dense", "zeros", "lit-prune", "cropped", "accelerated", "int8")),
        *(("small", kind) for kind in ("dense", "lit-prune", "cropped", "accelerated", "int8")),
    ]
    assert found.batches == (1, 16)
    assert found.sparsity == {"large": pytest.approx(0.5, abs=1e-6), "small": 0.0}
    assert found.threads == torch.get_num_threads()
    narrow = found.find("small", "dense")
    assert narrow is not None
    assert found.speed(narrow, 16) > 1.5
    assert [cost.difference is None for cost in found.costs] == [True, *[False] * 10]
    exact = [cost for cost in found.costs if cost.variant.kind != "int8"]
    assert max(cost.difference for cost in exact if cost.difference is not None) < 1e-3
    assert found.find("small", "zeros") is None


def make_cost(kind: Kind, network: str, *milliseconds: float, difference: float | None = 0.0) -> Cost:
    variant = Variant(
        network, kind, lambda images: images, torch.channels_last, 1000, 100, LayerFlops(4_000_000, 400_000), 4096,
        None if "onnx" in kind else 512,
    )  # fmt: skip
    latency = {batch: Latency((ms / 1000, 2 * ms / 1000)) for batch, ms in zip((1, 8), milliseconds, strict=True)}
    return Cost(variant, latency, difference)


@pytest.fixture
def comparison():
    costs = (
        make_cost("dense", "net", 2.0, 8.0, difference=None),
        make_cost("zeros", "net", 2.0, 10.0),
        make_cost("cropped", "net", 1.0, 4.0),
        make_cost("cropped onnx", "net", 0.5, 2.0),
        make_cost("dense", "half", 0.5, 4.0),
    )
    machine = {"processor": "abacus", "instructions": "wood", "python": "3.11", "torch": "2.9"}
    return Comparison(costs, IMAGE, 2, machine, {"net": 0.9, "half": 0.0})


def test_accuracy_is_not_claimed_for_networks_with_other_outputs(comparison):
    costs = (*comparison.costs, make_cost("int8", "net", 1.0, 4.0))
    text = format_table(replace(comparison, costs=costs), {"net": Score(75, 100)})
    (row,) = (" ".join(line.split()) for line in text.splitlines() if line.split()[1:3] == ["int8", "1,000"])
    assert row == "net int8 1,000 100 4.0 0.4 4,096 512"


def test_conclusions_follow_from_the_measurement(comparison):
    assert conclusions(comparison) == [
        "Zeros make files smaller (with `lit-prune export --compress`), but dense layers no faster. Compared with a "
        "copy without zeros, net with 90.0% zero weights takes 1.00 (batch 1) and 1.25 (batch 8) times as long.",
        "Speed relative to net, run as dense: without kernel positions that only ever see padding 2.00 "
        "(batch 1) and 2.00 (batch 8); without these kernel positions, in ONNX Runtime 4.00 (batch 1) and 4.00 "
        "(batch 8); half in torch 4.00 (batch 1) and 2.00 (batch 8).",
    ]


def test_the_table(comparison):
    lines = format_table(comparison, {"net": Score(75, 100)}).splitlines()
    text = "\n".join(" ".join(line.split()) for line in lines)
    for line in (
        "network run as accuracy parameters nonzero MFLOPs nonzero bytes compressed",
        "net dense 1,000 100 4.0 0.4 4,096 512",
        "net zeros 0.7500 1,000 100 4.0 0.4 4,096 512",
        "net cropped onnx 0.7500 1,000 100 4.0 0.4 4,096",
        "half dense 1,000 100 4.0 0.4 4,096 512",
        "net dense 3.00 (2.00 to 4.00) 1.00 12.00 (8.00 to 16.00) 1.00",
        "half dense 0.75 (0.50 to 1.00) 4.00 6.00 (4.00 to 8.00) 2.00",
    ):
        assert line in text.splitlines(), text
    assert "2 rounds with 2 threads on abacus (wood)" in "\n".join(lines)
    assert lines[-2:] == conclusions(comparison)
    assert "accuracy" not in format_table(comparison, {})


def test_json(comparison):
    content = json.loads(format_json(comparison, {"net": Score(75, 100)}))
    assert content["accuracy"] == {"net": 0.75}
    assert content["sparsity"] == {"net": 0.9, "half": 0.0}
    assert (content["threads"], content["inputs"]) == (2, {"images": {"shape": [3, 32, 32], "dtype": "float32"}})
    cost = content["costs"][1]
    assert (cost["network"], cost["kind"], cost["flops"], cost["bytes"]) == ("net", "zeros", 4_000_000, 4096)
    assert cost["latency"]["8"] == {"median": 0.015, "low": 0.01, "high": 0.02, "rounds": [0.01, 0.02], "speed": 0.8}
    assert content["costs"][0]["largest_difference"] is None
    assert content["conclusions"] == conclusions(comparison)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, [1], 1), "Expected `input_size` to be a positive integer, but got 0."),
        ((32, [], 1), "Expected `batches` to be different positive integers, but got []."),
        ((32, [2, 2], 1), "Expected `batches` to be different positive integers, but got [2, 2]."),
        ((32, [0], 1), "Expected `batches` to be different positive integers, but got [0]."),
        ((32, [1], 0), "Expected `rounds` to be a positive integer, but got 0."),
    ],
)
def test_unusable_arguments_are_refused(arguments, message):
    with pytest.raises(InputError) as error:
        compare({"net": SmallNet()}, *arguments)
    assert str(error.value).startswith(message)


def test_the_command(run, foreign, monkeypatch):
    sparse, dense = pruned(LitResNet18(channels=NARROW), 0.3), LitResNet18(channels=NARROW)
    for name, model in (("sparse.pt", sparse), ("dense.pt", dense)):
        torch.save(model.state_dict(), name)
    threads = torch.get_num_threads()
    argv = ["--rounds=1", "--batches=[1]", "--limit=20", "--data.source=synthetic", "--data.val_size=20"]
    done = run("cost", "sparse.pt", "--against=dense.pt", "--onnx=false", "--format=json", "--threads=1", *argv)
    assert done.status == 0, done.err
    content = json.loads(done.out)
    assert content["sparsity"] == {"sparse.pt": pytest.approx(0.3, abs=1e-4), "dense.pt": 0.0}
    assert content["threads"] == 1
    assert torch.get_num_threads() == threads
    assert content["accuracy"].keys() == content["sparsity"].keys()
    assert sorted(path.name for path in Path().iterdir()) == ["dense.pt", "sparse.pt"]
    assert run("cost", "sparse.pt", "--against=dense.pt", "--against=./dense.pt").complaint == (
        "Expected each checkpoint to be given once, but got `dense.pt` twice. HINT: leave one of them out."
    )
    others = ["--model=tests.training.small.SmallNet", "--rounds=1", "--batches=[1]"]
    monkeypatch.setattr("lit_prune.trained.cost.command.has_onnx", lambda: False)
    done = run("cost", str(foreign), *others)
    assert done.status == 0
    assert "skipping ONNX Runtime" in done.err
    assert "dense" in done.out


def test_a_network_without_images_is_measured():
    found = compare({"net": nn.Linear(8, 2)}, [8], [1, 4], rounds=1, turn=0.001, onnx=has_onnx())
    assert [cost.variant.kind for cost in found.costs] == ["dense", "accelerated", "int8", *["onnx"] * has_onnx()]
    assert found.costs[0].variant.flops == LayerFlops(2 * 8 * 2, 2 * 8 * 2)
    differences = {cost.variant.kind: cost.difference or 0.0 for cost in found.costs}
    assert differences.pop("int8") < 0.1
    assert max(differences.values()) < 1e-5
    assert "One input: `inputs` [8] float32." in format_table(found, {})
    assert len(conclusions(found)) == 1


class TokenNet(nn.Module):
    """A network that takes token ids and a mask by name."""

    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(50, 16), nn.Linear(16, 3)
        mask = torch.ones(2, 7)
        mask[1, 5:] = 0
        self.example_input_array = {"tokens": torch.randint(50, (2, 7)), "mask": mask}

    def forward(self, mask, tokens):
        return self.linear((self.embedding(tokens) * mask[..., None]).mean(1))


def test_a_network_of_token_ids_is_measured_with_inputs_like_its_example():
    found = compare({"net": pruned(TokenNet()), "other": TokenNet().eval()}, None, [1, 4], 1, has_onnx(), turn=0.001)
    kinds = [cost.variant.kind for cost in found.costs if cost.variant.network == "net"]
    assert kinds == ["dense", "zeros", "accelerated", "int8", *["onnx"] * has_onnx()]
    assert found.costs[0].variant.flops == LayerFlops(2 * 16 * 3, 2 * 16 * 3)
    for cost in found.costs:
        assert cost.difference is None or cost.difference < (0.1 if cost.variant.kind == "int8" else 1e-5)
    assert "One input: `tokens` [7] int64, `mask` [7] float32." in format_table(found, {})


def test_flops_that_cannot_be_counted_are_unknown_and_networks_that_cannot_run_in_8_bits_are_left_out():
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    found = compare({"net": encoder}, [5, 16], [1], 1, onnx=False, turn=0.001)
    assert [cost.variant.kind for cost in found.costs] == ["dense", "accelerated"]
    assert {cost.variant.flops for cost in found.costs} == {None}
    text = format_table(found, {})
    assert "`?` if some layers, such as LSTMs and attention, cannot be counted" in text
    assert next(line.split()[4:6] for line in text.splitlines() if line.startswith("net ")) == ["?", "?"]
    assert json.loads(format_json(found, {}))["costs"][0]["flops"] is None


def test_volumes_are_measured():
    net = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 3 * 4 * 5, 2)).eval()
    found = compare({"net": net}, [1, 5, 6, 7], [1], 1, onnx=False, turn=0.001)
    assert found.costs[0].variant.flops == LayerFlops(flops := 2 * (4 * 27 * 60 + 240 * 2), flops)


class DictNet(TokenNet):
    def forward(self, mask, tokens):
        return {"logits": super().forward(mask, tokens)}


def test_a_network_must_take_the_inputs_and_return_a_tensor():
    with pytest.raises(InputError, match=r"DictNet to return a tensor of logits .* an output of type dict"):
        compare({"net": DictNet()}, None, [1], 1)
    with pytest.raises(InputError, match=r"Linear to return a tensor .* for `inputs` \[9\] float32.*RuntimeError"):
        compare({"net": nn.Linear(8, 2)}, [9], [1], 1)
    model = TokenNet()
    model.example_input_array = {"tokens": torch.randint(50, (2, 7)), "mask": torch.ones(7)}
    with pytest.raises(InputError, match="the same number of rows"):
        compare({"net": model}, None, [1], 1)
