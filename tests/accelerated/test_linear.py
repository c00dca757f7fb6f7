"""Sparse linear layers compute what dense ones do."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from lit_prune.accelerated.linear import SparseLinear, transpose
from lit_prune.errors import InputError


def _weight(outputs, inputs, sparsity=0.7):
    return torch.randn(outputs, inputs) * (torch.rand(outputs, inputs) >= sparsity)


# each of the three kernels, blocks that are full and blocks that are filled up
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 15, 16, 17, 63, 64, 65, 129, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_those_of_the_dense_layer(rows, bias):
    weight, biases, inputs = _weight(31, 23), torch.randn(31) if bias else None, torch.randn(rows, 23)
    outputs = SparseLinear.of(weight, biases)(inputs)
    torch.testing.assert_close(outputs, F.linear(inputs, weight, biases))
    assert outputs.is_contiguous()


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (2, 0, 5), (7, 3, 2, 5)])
def test_inputs_have_any_number_of_dimensions(shape):
    weight, bias, inputs = _weight(4, 5), torch.randn(4), torch.randn(shape)
    torch.testing.assert_close(SparseLinear.of(weight, bias)(inputs), F.linear(inputs, weight, bias))


@pytest.mark.parametrize("weight", [torch.zeros(4, 5), torch.ones(4, 5), torch.eye(4, 5)])
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_rows_without_weights(weight, rows):
    inputs = torch.randn(5, rows).t()  # not contiguous
    torch.testing.assert_close(SparseLinear.of(weight)(inputs), inputs @ weight.t())


@pytest.mark.parametrize("count", [1, 15, 16, 64, 100])
def test_columns(count):
    weight, columns = _weight(9, 7), torch.randn(7, count)
    torch.testing.assert_close(SparseLinear.of(weight).multiply_columns(columns), weight @ columns)


def test_the_weight_is_a_tensor_that_other_code_can_ask():
    weight = _weight(6, 5)
    layer = SparseLinear.of(weight)
    assert torch.equal(layer.weight.to_dense(), weight)
    assert (layer.weight.shape, layer.weight.dtype) == (weight.shape, weight.dtype)
    assert f"nonzero={int(weight.count_nonzero())}" in repr(layer)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])  # noqa: S301
def test_a_copy_has_its_own_weight(again):
    layer = SparseLinear.of(torch.eye(3))
    inputs = torch.randn(2, 3)
    copied = again(layer)
    copied.values.fill_(2)
    torch.testing.assert_close((layer(inputs), copied(inputs)), (inputs, 2 * inputs))


def test_gradients_and_training_mode_are_refused():
    layer = SparseLinear.of(torch.eye(3))
    inputs = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(InputError, match="computes no gradients"):
        layer(inputs)
    with torch.no_grad():
        layer(inputs)
    with pytest.raises(InputError, match="cannot be trained"):
        layer.train()
    assert layer.eval()(inputs.detach()).requires_grad is False


def test_impossible_indices_are_found():
    layer = SparseLinear.of(torch.eye(3))
    assert layer.is_valid()
    layer.col_indices[0] = 3
    assert not layer.is_valid()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (3, 64, 10), (2, 7, 64)])
def test_transpose(shape):
    matrices = torch.randn(shape)
    transposed = transpose(matrices)
    assert torch.equal(transposed, matrices.transpose(1, 2))
    assert transposed.is_contiguous()
