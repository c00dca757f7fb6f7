"""Devices on which a test runs: always the CPU, and a GPU if there is one."""

import pytest

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
