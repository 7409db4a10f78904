"""Loads the native libraries and describes their raw ops to the compiler (fake implementations)."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PACKAGE = Path(__file__).resolve().parents[1]


def _find(stem: str) -> Path | None:
    return next(iter(sorted(_PACKAGE.glob(f"{stem}.*so"))), None)


def _load_cpu() -> None:
    library = _find("_C")
    if library is None:
        raise ImportError(
            f"fastcam's native library (_C*.so) is not in {_PACKAGE}: the package was not built. "
            "In a checkout run `make setup`, or `pip install --no-build-isolation .` in an "
            "environment that has torch"
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


# ---- fakes: shapes, dtypes and strides of the outputs, for torch.compile and torch.export --------


def _acc(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def is_channels_last(tensor: Tensor) -> bool:
    """csrc/ops/checks.h: read as channels last only if it is not dense channels first."""
    _, channels, height, width = tensor.shape
    by_channel, by_row, by_column = tensor.stride()[1:]
    first = (
        (width == 1 or by_column == 1)
        and (height == 1 or by_row == width)
        and (channels == 1 or by_channel == height * width)
    )
    last = (
        (channels == 1 or by_channel == 1)
        and (width == 1 or by_column == channels)
        and (height == 1 or by_row == width * channels)
    )
    return last and not first and tensor.numel() > 0


def _outputs(activations: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, height, width = activations.shape
    targets = gradients.shape[1]
    dtype = _acc(activations)
    return (
        activations.new_empty((batch, targets, height, width), dtype=dtype),
        activations.new_empty((batch, targets, channels), dtype=dtype),
        activations.new_empty((batch, targets), dtype=dtype),
    )


@torch.library.register_fake("fastcam::_cam_forward")
def _cam_forward_fake(
    activations: Tensor, gradients: Tensor, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(activations, gradients)


@torch.library.register_fake("fastcam::_cam_iou_forward")
def _cam_iou_forward_fake(
    activations: Tensor,
    gradients: Tensor,
    regions: Tensor,
    cell_weights: Tensor | None,
    where: Tensor | None,
    threshold: float,
    sharpness: float,
    binarize: int,
    eps: float,
    max_pull: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_map, alpha, loss = _outputs(activations, gradients)
    return loss, alpha, grad_map, torch.empty_like(loss, dtype=torch.uint8)


@torch.library.register_fake("fastcam::_cam_backward")
def _cam_backward_fake(
    activations: Tensor,
    alpha: Tensor,
    grad_map: Tensor,
    scale: Tensor | None,
    status: Tensor | None,
    need_activations: bool,
    need_gradients: bool,
) -> tuple[Tensor, Tensor]:
    if need_activations:
        layout = torch.channels_last if is_channels_last(activations) else torch.contiguous_format
        grad_activations = torch.empty(
            activations.shape,
            dtype=activations.dtype,
            device=activations.device,
            memory_format=layout,
        )
    else:
        grad_activations = activations.new_empty((0,))
    return grad_activations, alpha.new_empty(alpha.shape if need_gradients else (0,))


# The dtypes of `_cam_loss_backward`, in the order of csrc/common/storage.h.
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@torch.library.register_fake("fastcam::_cam_loss_forward")
def _cam_loss_forward_fake(
    activations: Tensor,
    gradients: Tensor,
    regions: Tensor,
    cell_weights: Tensor | None,
    where: Tensor | None,
    loss: int,
    params: list[float],
    max_pull: float,
    reduction: int,
    need_gradients: bool,
) -> tuple[Tensor, ...]:
    grad_map, alpha, losses = _outputs(activations, gradients)
    return (
        losses,
        torch.empty_like(losses, dtype=torch.uint8),
        losses.new_empty(() if reduction else (0,)),
        losses.new_empty(() if reduction else (0,)),
        alpha,
        grad_map,
        alpha.new_empty(alpha.shape if need_gradients else (0,)),
    )


@torch.library.register_fake("fastcam::_cam_loss_backward")
def _cam_loss_backward_fake(
    alpha: Tensor,
    grad_map: Tensor,
    grad_gradients: Tensor | None,
    status: Tensor,
    grad: Tensor,
    count: Tensor | None,
    dtype: int,
    channels_last: bool,
    need_activations: bool,
) -> tuple[Tensor, Tensor]:
    shape = (alpha.shape[0], alpha.shape[2], *grad_map.shape[2:])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    grad_activations = torch.empty(
        shape if need_activations else (0,),
        dtype=DTYPES[dtype],
        device=alpha.device,
        memory_format=layout if need_activations else torch.contiguous_format,
    )
    return grad_activations, alpha.new_empty((0,) if grad_gradients is None else alpha.shape)


@torch.library.register_fake("fastcam::_tone_curve")
def _tone_curve_fake(mask: Tensor, n: float, beta: float) -> Tensor:
    return mask.new_empty(mask.shape)


@torch.library.register_fake("fastcam::_tone_curve_backward")
def _tone_curve_backward_fake(mask: Tensor, grad: Tensor, n: float, beta: float) -> Tensor:
    return mask.new_empty(mask.shape)


@torch.library.register_fake("fastcam::_attend_forward")
def _attend_forward_fake(
    features: Tensor, logits: Tensor, n: list[float], beta: list[float], pool: bool
) -> tuple[Tensor, Tensor]:
    shape = logits.shape[:3] if pool else logits.shape
    return (
        features.new_empty((len(n), *shape)),
        features.new_empty(logits.shape[:3], dtype=_acc(features)),
    )


@torch.library.register_fake("fastcam::_attend_backward")
def _attend_backward_fake(
    features: Tensor,
    logits: Tensor,
    grad_out: Tensor,
    grad_mask_sum: Tensor | None,
    n: float,
    beta: float,
    pool: bool,
    need_features: bool,
    need_logits: bool,
) -> tuple[Tensor, Tensor]:
    return (
        features.new_empty(features.shape if need_features else (0,)),
        logits.new_empty(logits.shape if need_logits else (0,)),
    )
