"""The ops' own tests, run on the emulated CUDA kernels of sm_90 instead of the CPU kernels."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from emulation import CLUSTER_SHARED_BYTES, EmulatedOps, compiler

import fastcam.ops

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")

# Every file of tests/ops but these, which say nothing of the CUDA kernels.
OF_OTHER_CODE = {
    "test_attend_conv_costs",  # time and memory of the loops around the library's GEMM
    "test_cam_loss_op",  # torch's dispatcher, and blocks of the CPU kernel
    "test_cam_iou_transforms",  # the reference
    "test_cam_iou_values",  # the CPU kernel alone looks at values
    "test_copies",  # the CPU kernels, profiled
    "test_flush_denormal",  # conversions of the CPU's vectors
    "test_thread_counts",  # the CPU's threads
    "test_compile",  # torch's dispatcher and compiler, which know nothing of the emulator
    "test_layouts",
    "test_other_devices",  # the reference
    "test_threads",  # the emulator has one device, for one thread
}
OF_THE_DISPATCHER = {
    "test_opcheck",
    "test_fullgraph_equals_eager",
    "test_tone_curve_of_any_value_where_none_is_looked_at",  # its like: test_cuda_attend_kernels.py
}

# Under names of their own: two of the files may call a test the same.
for _file in sorted((Path(__file__).parents[1] / "ops").glob("test_*.py")):
    if _file.stem in OF_OTHER_CODE:
        continue
    for _name, _test in list(vars(import_module(_file.stem)).items()):
        if _name.startswith("test_") and callable(_test) and _name not in OF_THE_DISPATCHER:
            globals()[f"{_name}__of_{_file.stem}"] = _test


@pytest.fixture(autouse=True)
def _emulated_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in pkgutil.iter_modules(fastcam.ops.__path__, "fastcam.ops."):
        module = import_module(found.name)
        if found.name != "fastcam.ops.library" and hasattr(module, "raw"):
            monkeypatch.setattr(module, "raw", EmulatedOps(cluster_bytes=CLUSTER_SHARED_BYTES))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The emulator's memory is the CPU's, whatever ``--device`` says."""
    return torch.device("cpu")
