"""2:4 sparsity on a GPU."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lit_prune import accelerate, load_accelerated, save_accelerated
from lit_prune.accelerated.semi_structured import SemiStructuredLinear, is_semi_structured


def _make(width: int = 256) -> Any:
    model: Any = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            pairs = layer.weight.view(-1, 4).abs().argsort(1)[:, :2]
            layer.weight.view(-1, 4).scatter_(1, pairs, 0.0)
    return model.eval()


def test_2_to_4_is_recognised():
    model = _make(16)
    assert is_semi_structured(model[0].weight)
    assert not is_semi_structured(torch.ones(4, 4))
    assert not is_semi_structured(torch.zeros(4, 6))
    assert not is_semi_structured(torch.zeros(4, 4, 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's: sparse semi-structured tensors are a prototype
def test_outputs_are_those_of_the_dense_layer(set_speeds, tmp_path):
    set_speeds(lambda name, kind: 2.0 if name == "0" else 0.5)
    model = _make().cuda().half()
    example = torch.randn(128, 256, device="cuda", dtype=torch.half)
    fast: Any = accelerate(model, example)
    assert isinstance(fast[0], SemiStructuredLinear)
    assert isinstance(fast[2], nn.Linear)
    for batch in (128, 64, 3):
        inputs = torch.randn(batch, 256, device="cuda", dtype=torch.half)
        with torch.no_grad():
            torch.testing.assert_close(fast(inputs), model(inputs), rtol=2e-2, atol=2e-2)
    save_accelerated(fast, tmp_path / "fast")
    loaded: Any = load_accelerated(tmp_path / "fast", _make().half()).cuda()
    with torch.no_grad():
        torch.testing.assert_close(loaded(example), fast(example))
        torch.testing.assert_close(copy.deepcopy(fast)(example), fast(example))
