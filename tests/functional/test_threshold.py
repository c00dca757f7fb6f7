"""The k-th smallest value."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_prune.functional.threshold import kth_smallest


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30_000),
    st.floats(0, 1),
    st.sampled_from(["normal", "ties", "equal", "sorted", "reversed", "zeros", "tiny", "infinite"]),
    st.data(),
)
def test_kth_smallest_agrees_with_sorting(size: int, share: float, kind: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    values = torch.randn(size, dtype=dtype)
    match kind:
        case "ties":
            values = values.round()
        case "equal":
            values = torch.full_like(values, 0.5)
        case "sorted":
            values = values.sort().values
        case "reversed":
            values = values.sort(descending=True).values
        case "zeros":  # of both signs, which are equal
            values = torch.where(values > 1, values, values.sign() * 0.0)
        case "tiny":
            values *= torch.finfo(dtype).smallest_normal / 8
        case "infinite":
            values[values > 1] = torch.inf
    before = values.clone()
    k = max(1, round(share * size))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=3)))
    value, ties = kth_smallest(values.tensor_split(cuts), k)
    expected = values.sort().values[k - 1]
    assert value == float(expected)
    assert ties == k - int((values < expected).sum())
    assert torch.equal(values, before)
