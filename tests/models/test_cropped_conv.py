"""Cropped convolutions agree with ordinary ones in every use."""

import copy
import pickle
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torchvision.models import resnet18

from lit_prune.models import cropped_conv
from lit_prune.models.cropped_conv import CroppedConv2d, crop_convolutions, find_span

# size, kernel, stride, padding, dilation
shapes = st.tuples(st.integers(1, 12), st.integers(1, 7), st.integers(1, 4), st.integers(0, 6), st.integers(1, 3))
# shapes of a ResNet-18 at 32x32, and others with dead taps
CROPPED = [
    (1, 3, 1, 1, 1),
    (2, 3, 1, 1, 1),
    (2, 3, 2, 1, 1),
    (2, 1, 2, 0, 1),
    (1, 7, 2, 3, 1),
    (3, 7, 1, 6, 2),
    (4, 5, 3, 3, 2),
]


@pytest.fixture(autouse=True, params=["products", "crops"])
def way(request, monkeypatch):
    """Run each test with sums of matrix products wherever they are possible, and again without any.

    Without gradients, the second run uses a single product wherever that is possible.
    """
    products = request.param == "products"
    monkeypatch.setattr(cropped_conv, "_WORK_PER_PRODUCT", 0 if products else 2**60)
    monkeypatch.setattr(cropped_conv.CroppedConv2d, "_is_small", lambda *_: not products)


def pair(*args, **kwargs):
    """Make an ordinary and a cropped convolution with the same weights, in float64."""
    plain = nn.Conv2d(*args, **kwargs).double()
    cropped = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    crop_convolutions(cropped)
    assert type(cropped) is CroppedConv2d
    return plain, cropped


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


def reads(size, kernel, stride, padding, dilation):
    """By definition: for each output, the pixel that each tap reads, or None in the padding."""
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    places = [[out * stride - padding + tap * dilation for tap in range(kernel)] for out in range(outputs)]
    return [[place if 0 <= place < size else None for place in row] for row in places]


def assert_close(a: Tensor, b: Tensor):
    assert (a - b).abs().max() <= 1e-12 * (1 + b.abs().max())


def assert_same_training(plain, cropped, images):
    """Check that outputs and all gradients agree."""
    left, right = images.clone().requires_grad_(), images.clone().requires_grad_()
    out = plain(left)
    assert_close(cropped(right), out)
    with torch.no_grad():  # another way may be faster then
        assert_close(cropped(images), out)
    direction = torch.randn_like(out)
    wanted = torch.autograd.grad(out, [left, *plain.parameters()], direction)
    found = torch.autograd.grad(cropped(right), [right, *cropped.parameters()], direction)
    for a, b in zip(found, wanted, strict=True):
        assert_close(a, b)


@given(shapes)
@settings(max_examples=500)
def test_a_span_agrees_with_the_definition(shape):
    _, _, stride, _, dilation = shape
    table = reads(*shape)
    span = find_span(*shape)
    # the same pixels through fewer taps and less padding, and every tap that was left out read none
    assert reads(shape[0], span.taps.stop - span.taps.start, stride, span.padding, dilation) == [
        row[span.taps] for row in table
    ]
    used = {pixel for row in table for pixel in row if pixel is not None}
    assert used == {pixel for row in table for pixel in row[span.taps] if pixel is not None}
    pixels = [[pixel for pixel in row if pixel is not None] for row in table]
    assert bool(span.windows) == (dilation == 1 and all(pixels) and bool(table))
    for row, read, (window, taps) in zip(table, pixels, span.windows, strict=bool(span.windows)):
        assert row[taps] == read == list(range(shape[0]))[window]


@given(shapes, shapes, st.integers(1, 2), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_layer_is_exact(rows, columns, groups, bias):
    assume(reads(*rows) and reads(*columns))
    kernel, stride, padding, dilation = zip(rows[1:], columns[1:], strict=True)
    plain, cropped = pair(2, 4, kernel, stride, padding, dilation, groups=groups, bias=bias)
    assert_same_training(plain, cropped, random(2, 2, rows[0], columns[0]))


@pytest.mark.parametrize("size", [1, 2, 17, 32, 33, 64, pytest.param(224, marks=pytest.mark.gate)])
def test_a_network_is_exact_at_any_size(size):
    plain = resnet18().double().train(size > 32)  # batch norm cannot train on two values per channel
    cropped = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    crop_convolutions(cropped)
    assert_same_training(plain, cropped, random(2, 3, size, size))


@pytest.mark.parametrize("shape", CROPPED)
def test_exactly_the_dead_taps_get_zero_gradients(shape):
    size, kernel, stride, padding, dilation = shape
    _, layer = pair(3, 5, kernel, stride, padding, dilation)
    layer(random(2, 3, size, size)).square().sum().backward()
    live = torch.tensor([any(row[tap] is not None for row in reads(*shape)) for tap in range(kernel)])
    alive = live[:, None] & live
    assert not layer.weight.grad[:, :, ~alive].any()
    assert layer.weight.grad[:, :, alive].all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", CROPPED)
def test_gradients_have_the_layout_of_their_weights(shape, layout):
    size, kernel, *rest = shape
    _, layer = pair(3, 5, kernel, *rest)
    layer.to(memory_format=layout)
    layer(random(2, 3, size, size)).sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride()


def test_cropping_keeps_parameters_names_and_hooks():
    network = resnet18()
    parameters, keys = list(network.parameters()), list(network.state_dict())
    seen = []
    network.conv1.register_forward_hook(lambda *_: seen.append("hook"))
    crop_convolutions(network)
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    assert list(network.state_dict()) == keys
    assert sum(type(m) is CroppedConv2d for m in network.modules()) == 20
    network.eval()(torch.randn(1, 3, 32, 32))
    assert seen == ["hook"]


def test_subclasses_of_conv2d_are_not_cropped():
    class Own(nn.Conv2d):
        pass

    network = nn.Sequential(Own(1, 1, 3), nn.Conv2d(1, 1, 3), nn.Conv1d(1, 1, 3))
    crop_convolutions(network)
    assert [type(layer) for layer in network] == [Own, CroppedConv2d, nn.Conv1d]


@pytest.mark.parametrize(
    "settings",
    [{"padding": 1, "padding_mode": "reflect"}, {"padding": 1, "padding_mode": "circular"}, {"padding": "same"}],
)
def test_other_paddings_are_ordinary(settings):
    plain, cropped = pair(2, 3, 3, **settings)
    assert_same_training(plain, cropped, random(2, 2, 2, 2))


def test_an_input_smaller_than_the_kernel_fails_like_an_ordinary_one():
    plain, cropped = pair(1, 1, 5, padding=1)
    with pytest.raises(RuntimeError) as wanted:
        plain(random(1, 1, 2, 2))
    with pytest.raises(RuntimeError) as found:
        cropped(random(1, 1, 2, 2))
    assert str(found.value) == str(wanted.value)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad])
def test_wrong_channels_get_the_message_of_torch(size, grad):
    _, cropped = pair(3, 5, 3, padding=1)
    with grad(), pytest.raises(RuntimeError, match="to have 3 channels, but got 1 channels"):
        cropped(random(2, 1, size, size))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_empty_batches_and_single_images(size):
    plain, cropped = pair(2, 3, 3, padding=1)
    assert cropped(random(0, 2, size, size)).shape == (0, 3, size, size)
    assert_same_training(plain, cropped, random(2, size, size))


@pytest.mark.parametrize("shape", CROPPED)
def test_masked_weights(shape):
    size, kernel, *rest = shape
    plain, cropped = pair(3, 5, kernel, *rest)
    prune.l1_unstructured(plain, "weight", 0.5)
    prune.custom_from_mask(cropped, "weight", plain.weight_mask)  # `l1_unstructured` fails for channels_last weights
    assert_same_training(plain, cropped, random(2, 3, size, size))
    prune.remove(plain, "weight")
    prune.remove(cropped, "weight")
    assert_same_training(plain, cropped, random(2, 3, size, size))


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.gate
def test_compiled(dynamic):
    plain, cropped = pair(3, 5, 3, padding=1)
    torch.compiler.reset()
    compiled = torch.compile(cropped, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for size in (2, 1, 4):
        assert_same_training(plain, compiled, random(2, 3, size, size))


OLD_EXPORT = pytest.mark.skipif(
    torch.__version__.startswith("2.9."), reason="torch 2.9 cannot run such a program of its own Conv2d either"
)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=OLD_EXPORT)])
def test_exported_programs_work_at_other_sizes(strict):
    plain, cropped = pair(3, 5, 3, padding=1)
    auto = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(cropped, (random(2, 3, 2, 2),), dynamic_shapes=(auto,), strict=strict).module()
    for size in (2, 4, 9):
        images = random(2, 3, size, size)
        assert_close(exported(images), plain(images))


def test_traces_work_at_other_sizes():
    plain, cropped = pair(3, 5, 3, padding=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, but still how many programs are made
        traced = torch.jit.trace(cropped, random(1, 3, 1, 1))
    for size in (1, 2, 9):
        images = random(2, 3, size, size)
        assert_close(traced(images), plain(images))


def test_autocast_leaves_float64_as_it_is():
    plain, cropped = pair(8, 8, 3, padding=1)
    images = random(4, 8, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_training(plain, cropped, images)


@pytest.mark.parametrize("size", [1, 2])
def test_autocast(size):
    plain, cropped = pair(8, 8, 3, padding=1)
    plain, cropped = plain.float(), cropped.float()
    images = torch.randn(4, 8, size, size)
    results = []
    for layer in (plain, cropped):
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(images)
        out.float().square().sum().backward()
        results.append((out, layer.weight.grad))
    (out, gradient), (cropped_out, cropped_gradient) = results
    assert cropped_out.dtype == out.dtype == torch.bfloat16
    assert cropped_gradient.dtype == torch.float32
    torch.testing.assert_close(cropped_out, out, rtol=0.02, atol=0.02)
    torch.testing.assert_close(cropped_gradient, gradient, rtol=0.05, atol=0.1)


# torch's own forward-mode formulas are scripted when they are first used
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.parametrize("shape", CROPPED)
def test_second_derivatives(shape):
    size, kernel, *rest = shape
    _, layer = pair(1, 2, kernel, *rest)
    images = random(1, 1, size, size).requires_grad_()

    def cube(weight, bias, images):
        return functional_call(layer, {"weight": weight, "bias": bias}, (images,)) ** 3

    assert torch.autograd.gradcheck(cube, (layer.weight, layer.bias, images), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(cube, (layer.weight, layer.bias, images))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_gradients_image_by_image_with_torch_func(size):
    plain, cropped = pair(3, 5, 3, padding=1)
    images = random(4, 3, size, size)

    def each(layer):
        def loss(parameters, image):
            return functional_call(layer, parameters, (image[None],)).square().sum()

        return vmap(grad(loss), (None, 0))(dict(layer.named_parameters()), images)

    wanted, found = each(plain), each(cropped)
    for name in wanted:
        assert_close(found[name], wanted[name])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_weights_and_gradients_can_be_batched(size):
    plain, cropped = pair(3, 5, 3, padding=1)
    images = random(2, 3, size, size)

    def ensemble(layer):
        states = {name: torch.stack([value, 2 * value]) for name, value in layer.named_parameters()}
        return vmap(lambda state: functional_call(layer, state, (images,)))(states)

    assert_close(ensemble(cropped), ensemble(plain))
    for strategy in ("reverse-mode", "forward-mode"):
        jacobians = [
            torch.autograd.functional.jacobian(
                lambda images, layer=layer: layer(images).sum(0)[:2], images, vectorize=True, strategy=strategy
            )
            for layer in (plain, cropped)
        ]
        assert_close(jacobians[1], jacobians[0])


@pytest.mark.parametrize("size", [1, 2])
def test_saved_weights_may_return_in_another_layout(size):
    plain, cropped = pair(3, 5, 3, padding=1)
    images = random(2, 3, size, size)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.contiguous(), lambda tensor: tensor):
        output = cropped(images)
    output.square().sum().backward()
    plain(images).square().sum().backward()
    assert_close(cropped.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("size", [1, 2])
def test_selective_checkpoints_keep_products(size):
    plain, cropped = pair(3, 5, 3, padding=1)
    keep = partial(create_selective_checkpoint_contexts, [torch.ops.aten.mm.default, torch.ops.aten.addmm.default])
    images = random(2, 3, size, size)
    checkpoint(cropped, images, use_reentrant=False, context_fn=keep).square().sum().backward()
    plain(images).square().sum().backward()
    assert_close(cropped.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])  # noqa: S301
def test_copies_are_cropped_too(copied):
    plain, cropped = pair(3, 5, 3, padding=1)
    cropped(random(2, 3, 1, 1)).sum().backward()
    twin = copied(cropped)
    assert type(twin) is CroppedConv2d
    assert_same_training(plain, twin, random(2, 3, 1, 1))


_NARROW = """
import os
import torch
from torch.nn.functional import cross_entropy
from lit_prune import LitResNet18
from lit_prune.models.resnet18_channels import FULL_CHANNELS

def train():
    torch.manual_seed(0)
    model = LitResNet18(channels=dict.fromkeys(FULL_CHANNELS, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(10):
        images, labels = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    return loss.item()

torch.set_num_threads(1)
for number in range(3):
    child = os.fork()  # it does not have to import torch again
    if child == 0:
        left = [torch.full((2**size,), float(number)) for size in range(20)]
        del left  # what a process finds in its free memory differs
        print(train(), flush=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.gate
def test_a_narrow_network_trains_in_a_process_of_its_own():
    """oneDNN 3.12 corrupted memory here without AVX-512: the process aborted, or its losses differed."""
    command = [sys.executable, "-W", "ignore", "-c", _NARROW]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    losses, endings = done.stdout.split()[::2], done.stdout.split()[1::2]
    assert endings == ["0", "0", "0"], done.stderr
    assert len(losses) == 3
    assert len(set(losses)) == 1


@pytest.mark.parametrize(("size", "stride", "groups", "bias"), [(8, 2, 1, True), (7, 3, 4, False), (1, 2, 2, True)])
def test_a_strided_1x1_convolution_is_exact(size, stride, groups, bias):
    layer = nn.Conv2d(4, 8, 1, stride, groups=groups, bias=bias).double()
    images = torch.randn(3, 4, size, size, dtype=torch.float64, requires_grad=True)
    expected = layer(images)
    gradient = torch.randn_like(expected)
    theirs = torch.autograd.grad(expected, [images, *layer.parameters()], gradient)
    crop_convolutions(layer)
    output = layer(images)
    assert torch.allclose(output, expected, rtol=1e-12)
    for ours, reference in zip(
        torch.autograd.grad(output, [images, *layer.parameters()], gradient), theirs, strict=True
    ):
        assert torch.allclose(ours, reference, rtol=1e-12)


def test_settings_may_be_lists():
    layer = CroppedConv2d(3, 4, 3, padding=1)
    images = torch.randn(2, 3, 2, 2)
    expected = layer(images)
    layer.padding = [1, 1]  # type: ignore[assignment]  # as from JSON
    assert torch.equal(layer(images), expected)


def test_a_trace_in_half_precision_takes_any_number_of_images():
    layer = CroppedConv2d(256, 256, 3, padding=1).requires_grad_(False).bfloat16()

    def call(images: Tensor) -> Tensor:
        outputs: Tensor = layer(images)
        return outputs.flatten(1).view(images.shape[0], -1)

    traced = make_fx(call, tracing_mode="symbolic", _allow_non_fake_inputs=True)(torch.randn(64, 256, 1, 1).bfloat16())
    images = torch.randn(7, 256, 1, 1).bfloat16()
    torch.testing.assert_close(traced(images), call(images))
