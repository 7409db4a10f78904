"""The ops' own tests, run on the CUDA kernels under emulation instead of the CPU kernels."""

from __future__ import annotations

import pytest
from emulation import EmulatedOps, compiler
from test_cam_iou import *  # noqa: F403
from test_cam_iou_edges import *  # noqa: F403
from test_cam_iou_properties import *  # noqa: F403
from test_grad_cam import *  # noqa: F403

from fastcam import functional

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")


@pytest.fixture(autouse=True)
def _emulated_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "raw", EmulatedOps())
