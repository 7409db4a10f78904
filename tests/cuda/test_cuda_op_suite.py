"""The ops' own tests, run on the CUDA kernels under emulation instead of the CPU kernels."""

from __future__ import annotations

import pytest
import test_attend
import test_cam_iou
import test_cam_iou_edges
import test_cam_iou_properties
import test_cam_iou_pull
import test_grad_cam
import torch
from emulation import EmulatedOps, compiler

from fastcam.ops import attend, attend_conv, cam_iou, grad_cam

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")

# What they test is torch's dispatcher and compiler, which know nothing of the emulator.
OF_THE_DISPATCHER = {"test_opcheck", "test_fullgraph_equals_eager"}

# Under names of their own: two of the files may call a test the same.
for _module in (
    test_attend,
    test_cam_iou,
    test_cam_iou_edges,
    test_cam_iou_properties,
    test_cam_iou_pull,
    test_grad_cam,
):
    for _name, _test in list(vars(_module).items()):
        if _name.startswith("test_") and _name not in OF_THE_DISPATCHER:
            globals()[f"{_name}__of_{_module.__name__}"] = _test


@pytest.fixture(autouse=True)
def _emulated_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (grad_cam, cam_iou, attend, attend_conv):
        monkeypatch.setattr(module, "raw", EmulatedOps())


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The emulator's memory is the CPU's, whatever ``--device`` says."""
    return torch.device("cpu")
