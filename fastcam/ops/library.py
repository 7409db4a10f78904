"""Loads the native libraries, and what every description of their ops to the compiler needs."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PACKAGE = Path(__file__).resolve().parents[1]
_ARCH = re.compile(r"(\d+)\.(\d+)([af]?)(\+PTX)?")  # an architecture as torch writes it


def _find(stem: str) -> Path | None:
    return next(iter(sorted(_PACKAGE.glob(f"{stem}.*so"))), None)


def _load_cpu() -> None:
    library = _find("_C")
    if library is None:
        raise ImportError(
            f"fastcam's native library (_C*.so) is not in {_PACKAGE}: the package was not built. "
            "In a checkout run `make setup`, or `pip install --no-build-isolation .` in an "
            "environment that has torch. (One that is installed already is imported in any other "
            "folder, or by `python -P`: this one has the sources)"
        )
    torch.ops.load_library(str(library))


def _load_cuda() -> str | None:
    """Load the CUDA kernels; the reason why there are none, or None when they are loaded."""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    library = _find("_C_cuda")
    if library is None:
        return "fastcam was built without CUDA kernels" + _why_not_built()
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library.name} could not be loaded: {error}"
    return None


def _built() -> dict[str, Any]:
    """What the build wrote about itself."""
    try:
        return json.loads((_PACKAGE / "_build_info.json").read_text())
    except (OSError, ValueError):
        return {}


def _why_not_built() -> str:
    reason = _built().get("cuda_reason")
    return f" ({reason})" if reason else ""


_load_cpu()
cuda_missing: str | None = _load_cuda()
raw = torch.ops.fastcam


@lru_cache(maxsize=1)
def build_info() -> dict[str, Any]:
    """What was built and what is loaded.

    Returns:
        A dict with ``version``; ``build`` (torch, CUDA, compiler, architectures and date of the
        build, as the build recorded them); ``torch`` (the running version); ``cpu_isa`` (the
        instruction set whose kernels run here: ``"avx512"``, ``"avx2"`` or ``"baseline"``); and
        ``cuda``: True if the CUDA kernels are loaded, with the reason in ``cuda_missing`` if not.
    """
    from fastcam import __version__

    return {
        "version": __version__,
        "build": _built(),
        "torch": torch.__version__,
        "cpu_isa": raw._cpu_isa(),
        "cuda": cuda_missing is None,
        "cuda_missing": cuda_missing,
    }


def lacks_code(capability: tuple[int, int]) -> str | None:
    """Why the CUDA kernels cannot run on a GPU of this compute capability; None where they can.

    Code of an architecture runs on later GPUs of the same major version, its PTX on all later ones
    (CUDA C++ Programming Guide, "Application Compatibility").
    """
    archs = _built().get("arch_list")
    if not archs:
        return None
    for arch in map(_ARCH.fullmatch, archs):
        if arch is None:  # a name, such as Hopper
            return None
        built, only, ptx = (int(arch[1]), int(arch[2])), arch[3], arch[4]
        later = capability[0] == built[0] and capability >= built and only != "a"
        if capability == built or later or (ptx and not only and capability >= built):
            return None
    asked = "{}.{}".format(*capability)
    return (
        f"where none of fastcam's CUDA kernels runs: they were built for {', '.join(archs)}, and "
        f"its compute capability is {asked}; build again with TORCH_CUDA_ARCH_LIST={asked!r}"
    )


# ---- for the fakes, which tell torch.compile and torch.export the shapes, dtypes and strides of an
# ---- op's outputs and stand beside its autograd function ---------------------------------------

# In the order of csrc/common/storage.h, for ops that take a dtype.
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def acc_dtype(tensor: Tensor) -> torch.dtype:
    """The arithmetic type of a call on this tensor."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def is_channels_last(tensor: Tensor) -> bool:
    """Whether kernels read ``[N,C,H,W]`` as channels last: not if it is dense channels first, too.

    The rule of csrc/ops/checks.h, which fakes cannot ask: their tensors have shapes alone.
    """
    if tensor.is_contiguous():
        return False
    sample = tensor[:1]  # the stride of N is free
    return not sample.is_contiguous() and sample.is_contiguous(memory_format=torch.channels_last)


def empty_maps(
    shape: tuple[int, ...], dtype: torch.dtype, like: Tensor, channels_last: bool
) -> Tensor:
    """An uninitialised tensor ``[N,C,H,W]`` on the device of ``like``."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=layout)
