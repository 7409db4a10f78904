"""Every loss of the map is a policy of the same kernels; another one is that and nothing else."""

from __future__ import annotations

import subprocess

import pytest
from emulation import EmulatedOps, build, compiler
from samples import SHAPES, make
from test_cam_losses import CASES, assert_reference

from fastcam.ops import cam_loss

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")


def test_another_loss_has_its_value_and_its_gradients():
    program = build("other-loss", ["other_loss.cpp", "emulator.cpp"], ["-O1"])
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_every_loss_in_parts(options, monkeypatch):
    """The kernels before sm_90; those of sm_90 run in test_cuda_op_suite.py."""
    monkeypatch.setattr(cam_loss, "raw", EmulatedOps(reversed=True))
    for shape in (SHAPES[2], (2, 5, 40, (5, 6), (1, 1))):
        for layout in ("contiguous", "channels_last"):
            sample = make(shape, layout=layout, **options)
            sample.regions[0, 1] = 0
            assert_reference(sample, "mean", tolerance=2e-4)
