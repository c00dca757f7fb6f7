"""Times that a test decides, so that the choice of layers does not depend on the machine."""

from collections.abc import Callable

import pytest

from lit_prune.accelerated import accelerate as module

Decide = Callable[[str, str], float]


@pytest.fixture
def set_speeds(monkeypatch) -> Callable[..., None]:
    """Set how many times as fast each kind of each layer is, and the accelerated networks, one after the other."""

    def set_them(layers: Decide, networks: tuple[float, ...] = (2.0,)) -> None:
        speeds = iter(networks)

        def time_layers(network, run, alternatives, rounds):
            return {
                name: {"dense": [1.0] * rounds} | {kind: [1 / layers(name, kind)] * rounds for kind in kinds}
                for name, kinds in alternatives.items()
            }

        def compare_networks(before, after, run, rounds):
            return [1.0] * rounds, [1 / next(speeds, 1.0)] * rounds

        monkeypatch.setattr(module, "time_layers", time_layers)
        monkeypatch.setattr(module, "compare_networks", compare_networks)

    return set_them
