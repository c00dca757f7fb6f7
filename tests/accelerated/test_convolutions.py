"""Convolutions as products compute what ordinary ones do."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from lit_prune.accelerated.convolutions import ConvolutionMatrix, SparseConv2d
from lit_prune.errors import InputError

from .networks import prune


def _layers():
    """Convolutions that differ in every setting, with feature maps for each."""
    settings: Any = product((1, 2, 3, (3, 5)), (1, (2, 1)), (0, 1, (2, 1)), (1, 2), ((1, 1), (2, 1), (2, 2), (4, 5)))
    for number, (kernel, stride, padding, dilation, size) in enumerate(settings):
        layer = prune(nn.Conv2d(3, 4, kernel, stride, padding, dilation, bias=number % 2 == 0), 0.6)
        maps = torch.randn(1 + number % 3, 3, *size)
        try:
            yield layer.requires_grad_(False), maps, layer(maps)
        except RuntimeError:  # the kernel is larger than the padded maps
            continue


def test_outputs_are_those_of_the_dense_layer():
    sizes = set()
    for layer, maps, wanted in _layers():
        found = [SparseConv2d.of(layer)(maps)]
        if maps[0, 0].numel() <= 4:
            found += [ConvolutionMatrix.of(layer, tuple(maps.shape[2:]), sparse)(maps) for sparse in (False, True)]
        for outputs in found:
            torch.testing.assert_close(outputs, wanted)
        sizes.add(maps.shape[2:])
    assert len(sizes) == 4


@pytest.mark.parametrize("mode", ["circular", "replicate", "reflect"])
def test_a_matrix_pads_in_any_mode(mode):
    layer = prune(nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode), 0.5).requires_grad_(False)
    maps = torch.randn(2, 2, 2, 2)
    for sparse in (False, True):
        torch.testing.assert_close(ConvolutionMatrix.of(layer, (2, 2), sparse)(maps), layer(maps))


def test_a_matrix_takes_maps_of_other_layouts_and_without_a_batch():
    layer = prune(nn.Conv2d(5, 3, 3, padding=1)).requires_grad_(False)
    matrix = ConvolutionMatrix.of(layer, (2, 2), sparse=True)
    maps = torch.randn(4, 5, 2, 2)
    torch.testing.assert_close(matrix(maps.contiguous(memory_format=torch.channels_last)), layer(maps))
    torch.testing.assert_close(matrix(maps[0]), layer(maps)[0])


def test_a_matrix_holds_no_pixels_that_no_output_reads():
    layer = nn.Conv2d(3, 4, 1, stride=2).requires_grad_(False)
    matrix = ConvolutionMatrix.of(layer, (2, 2), sparse=False)
    assert matrix.used == (1, 1)
    assert matrix.product.weight.shape == (4, 3)


def test_maps_of_another_size_are_refused():
    matrix = ConvolutionMatrix.of(nn.Conv2d(3, 4, 3, padding=1), (2, 2), sparse=True)
    with pytest.raises(InputError, match="maps of 3x2x2 in an accelerated network, but got 3x4x4"):
        matrix(torch.zeros(1, 3, 4, 4))


def test_sparse_convolutions_take_maps_of_any_size_and_layout():
    for layer in (prune(nn.Conv2d(3, 4, 3, padding=1)), prune(nn.Conv2d(3, 4, 1))):
        layer.requires_grad_(False)
        sparse = SparseConv2d.of(layer)
        for size in (3, 8, 11):
            maps = torch.randn(2, 3, size, size).contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(sparse(maps), layer(maps))
