"""Fixtures for data tests: the real CIFAR-10 if it is available, and a tiny fake."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import fake

UNPACK = Path(__file__).resolve().parents[3] / "shared" / "data" / "unpack_cifar10.py"


@pytest.fixture(scope="session")
def cifar10_dir(tmp_path_factory):
    """A data folder with the real CIFAR-10 arrays."""
    if not UNPACK.exists():
        pytest.skip("CIFAR-10 is not available")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(UNPACK), str(folder / "cifar10-arrays")], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """The archive of the fake CIFAR-10, next to its batches."""
    return fake.make(tmp_path_factory.mktemp("fake"))


@pytest.fixture
def fake_cifar10(archive, monkeypatch):
    """The archive of the fake CIFAR-10, which everything accepts as the original."""
    fake.install(archive, monkeypatch.setattr)
    return archive
