"""Another loss of the map is a policy and nothing else."""

from __future__ import annotations

import subprocess

import pytest
from emulation import build, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")


def test_another_loss_has_its_value_and_its_gradients():
    program = build("other-loss", ["other_loss.cpp", "emulator.cpp"], ["-O1"])
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
