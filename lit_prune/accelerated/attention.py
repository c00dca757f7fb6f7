"""`torch.nn.MultiheadAttention` whose projections are layers of their own, so that each can be replaced."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_prune.accelerated.linear import dense_linear
from lit_prune.errors import expected


class OpenAttention(nn.Module):
    """A `torch.nn.MultiheadAttention` for inference, with one linear layer for each of its projections.

    It takes the same arguments and returns the same results. The modules of torch that would read the weights of an
    attention instead of calling it, such as `nn.TransformerEncoderLayer`, call this one.

    Args:
        attention: Attention whose weights and settings to use; it must not add biases or zeros to keys and values.
        packed: Whether one product projects queries, keys and values: faster if all three are the same tensor.
    """

    # torch's encoder layers take these to mean: call the attention, do not read its weights
    _qkv_same_embed_dim = False
    in_proj_bias = None

    def __init__(self, attention: nn.MultiheadAttention, packed: bool) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.batch_first, self.packed = attention.batch_first, packed
        bias: Tensor | None = attention.in_proj_bias
        if packed:
            weights, biases = [attention.in_proj_weight.detach()], [bias]
        else:
            separate = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
            together = attention.in_proj_weight
            weights = [part.detach().clone() for part in (separate if together is None else together.chunk(3))]
            biases = [None] * 3 if bias is None else [part.clone() for part in bias.chunk(3)]
        self.projections = nn.ModuleList(map(dense_linear, weights, biases))
        self.out_proj = dense_linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as `torch.nn.MultiheadAttention` does; `is_causal` only describes `attn_mask`."""
        if is_causal and attn_mask is None:
            raise expected("an `attn_mask` with `is_causal=True`", "None", "pass the causal mask as `attn_mask`, too")
        batched = query.dim() == 3
        projected = self._project(query, key, value)
        queries, keys, values = (self._split_heads(tensor, batched) for tensor in projected)
        mask = self._merge_masks(attn_mask, key_padding_mask, queries)
        weights = None
        if need_weights:
            scores = queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            heads = weights @ values
        else:
            heads = F.scaled_dot_product_attention(queries, keys, values, mask)
        output: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        if not self.packed:
            return [layer(tensor) for layer, tensor in zip(self.projections, (query, key, value), strict=True)]
        layer = self.projections[0]
        if query is key and key is value:
            return list(layer(query).chunk(3, -1))
        return [layer(tensor).chunk(3, -1)[part] for part, tensor in enumerate((query, key, value))]

    def _split_heads(self, tensor: Tensor, batched: bool) -> Tensor:
        """Return queries, keys or values as (batch, heads, length, head dimension)."""
        if not batched:
            tensor = tensor[None]
        elif not self.batch_first:
            tensor = tensor.transpose(0, 1)
        return tensor.view(*tensor.shape[:2], self.num_heads, self.embed_dim // self.num_heads).transpose(1, 2)

    def _merge_masks(self, attn_mask: Tensor | None, padding: Tensor | None, queries: Tensor) -> Tensor | None:
        """Return what to add to the scores (batch, heads, queries, keys)."""
        merged = None
        if attn_mask is not None:
            merged = _as_summand(attn_mask, queries.dtype)
            shape = (-1, self.num_heads) if merged.dim() == 3 else (1, 1)
            merged = merged.view(*shape, *merged.shape[-2:])
        if padding is not None:
            keys = _as_summand(padding if padding.dim() == 2 else padding[None], queries.dtype)[:, None, None]
            merged = keys if merged is None else merged + keys
        return merged


def _as_summand(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
