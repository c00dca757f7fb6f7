"""An open attention gives what torch's gives."""

from itertools import product

import pytest
import torch
from torch import nn

from lit_prune.accelerated.attention import OpenAttention
from lit_prune.accelerated.conversion import convert
from lit_prune.errors import InputError

from .networks import prune


def _masks(batch, heads, queries, keys):
    """Masks of all kinds, none of which hides all keys of a query."""
    hidden = torch.rand(queries, keys) < 0.3
    hidden[:, 0] = False
    padding = torch.rand(batch, keys) < 0.3
    padding[:, 0] = False
    yield {}
    yield {"attn_mask": hidden}
    yield {"attn_mask": torch.randn(queries, keys)}
    yield {"attn_mask": torch.randn(batch * heads, queries, keys), "key_padding_mask": padding.float()}
    yield {"key_padding_mask": padding}
    yield {"attn_mask": hidden, "key_padding_mask": padding, "is_causal": False}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_results_are_those_of_torch(batch_first, bias):
    layer = prune(nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first), 0.3)
    own, others = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    if not batch_first:
        own, others = own.transpose(0, 1), others.transpose(0, 1)
    compared = 0
    for packed, (query, key) in product((True, False), ((own, own), (own, others))):
        opened = OpenAttention(layer, packed)
        masks = _masks(2, 3, 5, key.shape[1 if batch_first else 0])
        for mask, weights in product(masks, ({}, {"need_weights": False}, {"average_attn_weights": False})):
            with torch.no_grad():
                wanted = layer(query, key, key, **mask, **weights)
                found = opened(query, key, key, **mask, **weights)
            torch.testing.assert_close(found, wanted)
            compared += 1
    assert compared == 2 * 2 * 6 * 3


def test_keys_and_values_of_other_widths_and_inputs_without_a_batch():
    layer = prune(nn.MultiheadAttention(12, 2, kdim=5, vdim=6), 0.3)
    inputs = torch.randn(4, 12), torch.randn(3, 5), torch.randn(3, 6)
    with torch.no_grad():
        torch.testing.assert_close(OpenAttention(layer, packed=False)(*inputs), layer(*inputs))


def test_an_empty_batch():
    layer, inputs = prune(nn.MultiheadAttention(12, 2, batch_first=True)), torch.randn(0, 4, 12)
    with torch.no_grad():
        found, weights = OpenAttention(layer, packed=True)(inputs, inputs, inputs)
    assert weights is not None
    assert (found.shape, weights.shape) == ((0, 4, 12), (0, 4, 4))


def test_a_causal_hint_needs_its_mask():
    inputs = torch.randn(1, 4, 12)
    with pytest.raises(InputError, match="attn_mask"):
        OpenAttention(nn.MultiheadAttention(12, 2), packed=True)(inputs, inputs, inputs, is_causal=True)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # torch's own way with padding
@pytest.mark.parametrize("norm_first", [True, False])
def test_encoders_of_torch_call_it(norm_first):
    layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True, norm_first=norm_first)
    encoder = prune(nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first), 0.3)
    inputs, padding = torch.randn(3, 6, 12), torch.arange(6)[None] >= torch.tensor([[6], [4], [2]])
    with torch.no_grad():
        wanted = [encoder(inputs), encoder(inputs, src_key_padding_mask=padding)]
        names = {f"layers.{number}.self_attn": True for number in range(2)}
        opened = convert(encoder, names, {})
        found = [opened(inputs), opened(inputs, src_key_padding_mask=padding)]
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1][~padding], wanted[1][~padding])
    assert not any(isinstance(module, nn.MultiheadAttention) for module in opened.modules())
