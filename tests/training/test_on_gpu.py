"""`lit-prune fit` on a GPU: resumed runs have the same bits, and compiled ones train as eager ones do."""

from pathlib import Path

import pytest
import torch

from tests.devices import DEVICES
from tests.training.conftest import NARROW, TINY, Run


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [[], pytest.param(["--compile"], marks=pytest.mark.gpu)], ids=["eager", "compiled"])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(run: Run, device: str, options: list[str]) -> None:
    if options and device == "cpu":
        pytest.skip("tests/training/test_compiled_training.py resumes on the CPU")
    base = [option.replace("accelerator=cpu", f"accelerator={device}") for option in TINY]
    # the ImageNet stem has a max-pooling, whose gradient torch may add up in any order
    base += [NARROW, "--model.stem=cifar", "--trainer.deterministic=true", *options]
    base += [
        "--trainer.callbacks+=GlobalL1Pruning",
        "--trainer.callbacks.amount=0.5",
        "--trainer.callbacks.end_epoch=2",
    ]
    assert run("fit", *base, "--name=whole", "--trainer.max_epochs=4").status == 0
    assert run("fit", *base, "--name=parts", "--trainer.max_epochs=2").status == 0
    answer = run("fit", *base, "--name=parts", "--trainer.max_epochs=4", "--resume")
    assert answer.status == 0, answer.err
    whole, parts = (
        torch.load(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt", map_location="cpu", weights_only=True)
        for name in ("whole", "parts")
    )
    assert whole["state_dict"].keys() == parts["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], value), name


@pytest.mark.gpu
def test_a_network_compiled_with_cuda_graphs_trains_like_an_eager_one(run: Run) -> None:
    base = [option.replace("accelerator=cpu", "accelerator=cuda") for option in TINY]
    callbacks = [
        "--trainer.callbacks+=LayerFreezing",
        "--trainer.callbacks.fraction=0.3",
        "--trainer.callbacks.unfreeze_epoch=1",
        "--trainer.callbacks+=GlobalL1Pruning",
        "--trainer.callbacks.amount=0.5",
        "--trainer.callbacks+=SparsityMonitor",
    ]
    losses = []
    for name, options in {"eager": [], "compiled": ["--compile"], "default": ["--compile=default"]}.items():
        answer = run("fit", *base, NARROW, *callbacks, f"--name={name}", "--trainer.max_epochs=3", *options)
        assert answer.status == 0, answer.err
        folder = Path(f"lightning_logs/{name}/version_0")
        state = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
        assert not any("_orig_mod" in key for key in state)
        losses.append(torch.stack([value.float().norm() for value in state.values()]))
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=0.1, atol=0.1)
