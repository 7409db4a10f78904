"""Argument checks of the functional layer: every error names the argument, what fits and what came.

The checks of per-cell arguments also give them their full shape (as views), so that the kernels
need know no broadcasting.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fastcam._util.checks import flag as flag
from fastcam._util.checks import number as number
from fastcam._util.checks import one_of as one_of
from fastcam._util.checks import whole as whole
from fastcam.ops import library
from fastcam.ops.autograd import transformed

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_ROUNDING = 1e-3  # what resizing a mask may leave beyond [0, 1]; csrc/cpu/ops/cam.cpp, too
_OF_255 = " (divide a mask of 0 to 255 by 255)"
_AS_SHARES = "; pass a 0/1 mask as mask.bool(), one of 0 to 255 as mask / 255"


def _shape(tensor: Tensor) -> str:
    return "[" + ",".join(str(size) for size in tensor.shape) + "]"


def dense(name: str, value: object) -> None:
    """TypeError for what is no tensor, or a sparse one."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {value.layout}")


def floating(name: str, tensor: Tensor, and_bool: bool = False, advice: str = "") -> None:
    dense(name, tensor)
    if tensor.dtype not in _FLOATS and not (and_bool and tensor.dtype == torch.bool):
        kinds = "bool, float32" if and_bool else "float32"
        raise TypeError(
            f"{name}: expected dtype {kinds}, float64, float16 or bfloat16, got {tensor.dtype}"
            f"{advice}"
        )


def without_subclass(tensor: Tensor) -> Tensor:
    """A constant as a plain tensor, if Python functions are all that its class adds (fastai's,
    MONAI's and torchvision's do): torch calls no op with two such classes (regions and activations)
    that do not know each other."""
    kind = type(tensor)
    if kind is Tensor or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return tensor
    return tensor.as_subclass(Tensor)


def same_device(name: str, tensor: Tensor, other: Tensor, as_: str = "activations") -> None:
    """ValueError for a tensor that is elsewhere than ``other``, which the error names ``as_``."""
    if tensor.device != other.device:
        raise ValueError(f"{name}: expected device {other.device} (as {as_}), got {tensor.device}")


def _constant(name: str, tensor: Tensor) -> None:
    if tensor.requires_grad:
        raise ValueError(
            f"{name}: expected a constant, got a tensor that requires grad; no gradient flows to "
            f"{name}, pass {name}.detach() if that is what you want"
        )


def signs(value: Tensor, gradients: Tensor, on: Tensor | None = None) -> Tensor:
    """Signs [N] or [N,T] of gradients [N,T,C,H',W'], shaped to multiply them.

    Args:
        on: bool [N,T], which pairs count. The others' signs are not looked at, and 1: a NaN times
            a gradient of 0 would be NaN.
    """
    floating("signs", value)
    same_device("signs", value, gradients)
    batch, targets = gradients.shape[:2]
    if tuple(value.shape) not in ((batch,), (batch, targets)):
        raise ValueError(
            f"signs: expected shape [{batch}] or [{batch},{targets}], got {_shape(value)}"
        )
    value = without_subclass(value)
    if value.dim() == 1:
        value = value.unsqueeze(1)
    if on is not None:
        value = torch.where(on, value, 1)
    _values_of_signs(value)
    return value.to(gradients.dtype)[..., None, None, None]


def max_pair_pull(value: float | None) -> None:
    if value is not None:
        number("max_pair_pull", value, "finite and > 0, or None", lambda x: 0 < x < float("inf"))


def on_supported_device(name: str, tensor: Tensor) -> None:
    """Not on a GPU whose kernels are not loaded, or not built for it."""
    if tensor.device.type != "cuda":
        return
    if library.cuda_missing is not None:
        raise RuntimeError(
            f"{name}: on {tensor.device}, but fastcam's CUDA kernels are not loaded: "
            f"{library.cuda_missing}"
        )
    # A fake tensor needs no GPU.
    if not torch.compiler.is_dynamo_compiling() and torch.cuda.is_initialized():
        lacking = _lacks_code(tensor.device)
        if lacking is not None:
            raise RuntimeError(f"{name}: on {tensor.device}, {lacking}")


@lru_cache
def _lacks_code(device: torch.device) -> str | None:
    return library.lacks_code(torch.cuda.get_device_capability(device))


def plainly(tensor: Tensor) -> bool:
    """Whether :mod:`fastcam.reference` is to run in place of the kernels: in a function transform,
    where a program is recorded that is to run without fastcam, or on a device that has none, of
    which a warning says so once."""
    if transformed() or _recorded():
        return True
    kind = tensor.device.type
    if kind in _KERNELS:
        return False
    _warn_of_no_kernels(kind)
    return True


def _recorded() -> bool:
    """Whether torch.jit.trace or torch.onnx.export is at work: files of theirs cannot hold the ops.

    ``torch.onnx.is_in_onnx_export`` would load the exporter, and takes a microsecond each time.
    """
    if torch.compiler.is_dynamo_compiling():
        return False
    flags = sys.modules.get("torch.onnx._internal.exporter._flags")
    return torch._C._is_tracing() or getattr(flags, "_is_onnx_exporting", False)


_KERNELS = {"cpu", "cuda", "meta"}


@lru_cache
def _warn_of_no_kernels(kind: str) -> None:
    warnings.warn(
        f"fastcam has no kernels for the device {kind!r}: plain PyTorch runs in their place",
        stacklevel=2,
    )


def features(name: str, tensor: Tensor) -> None:
    """[N,C,H,W], floating, with at least one cell."""
    floating(name, tensor)
    if tensor.dim() != 4 or tensor.shape[2] * tensor.shape[3] == 0:
        raise ValueError(f"{name}: expected shape [N,C,H,W] with H, W >= 1, got {_shape(tensor)}")
    on_supported_device(name, tensor)


def gradients(tensor: Tensor, activations: Tensor) -> Tensor:
    """[N,C,H',W'] or [N,T,C,H',W'] of the activations' N and C; returned with its axis T."""
    floating("gradients", tensor)
    batch, channels = activations.shape[:2]
    wanted = f"[{batch},{channels},H',W'] or [{batch},T,{channels},H',W'] with H', W' >= 1"
    full = tensor.unsqueeze(1) if tensor.dim() == 4 else tensor
    if (
        full.dim() != 5
        or full.shape[0] != batch
        or full.shape[2] != channels
        or full.shape[3] * full.shape[4] == 0
    ):
        raise ValueError(f"gradients: expected shape {wanted}, got {_shape(tensor)}")
    same_device("gradients", tensor, activations)
    return full


def region_grid(tensor: Tensor) -> Tensor:
    """[N,H,W] or [N,T,H,W], bool or floating, constant; returned with its axis T."""
    floating("regions", tensor, and_bool=True, advice=_AS_SHARES)
    if tensor.dim() not in (3, 4):
        raise ValueError(f"regions: expected shape [N,H,W] or [N,T,H,W], got {_shape(tensor)}")
    _constant("regions", tensor)
    tensor = without_subclass(tensor)
    return tensor.unsqueeze(1) if tensor.dim() == 3 else tensor


def regions(tensor: Tensor, activations: Tensor, pairs: Sequence[int]) -> Tensor:
    full = region_grid(tensor)
    batch, targets = pairs
    height, width = activations.shape[2:]
    if full.shape != (batch, targets, height, width):
        wanted = f"[{batch},{targets},{height},{width}]"
        if targets == 1:
            wanted += f" or [{batch},{height},{width}]"
        advice = ""
        if full.shape[2:] != (height, width):
            advice = f"; fastcam.regions.from_masks(masks, ({height}, {width})) makes them of masks"
        raise ValueError(
            f"regions: expected shape {wanted} (N, T of gradients and H, W of activations), "
            f"got {_shape(tensor)}{advice}"
        )
    same_device("regions", tensor, activations)
    return full


def cell_weights(tensor: Tensor, activations: Tensor, pairs: Sequence[int]) -> Tensor:
    floating("cell_weights", tensor, and_bool=True, advice="; pass cell_weights.float()")
    _constant("cell_weights", tensor)
    same_device("cell_weights", tensor, activations)
    batch, targets = pairs
    height, width = activations.shape[2:]
    fits = tensor.shape[-2:] == (height, width) and (
        tensor.dim() == 2
        or (tensor.dim() == 4 and tensor.shape[0] in (1, batch) and tensor.shape[1] in (1, targets))
    )
    if not fits:
        raise ValueError(
            f"cell_weights: expected shape [{height},{width}] or "
            f"[{batch} or 1,{targets} or 1,{height},{width}], got {_shape(tensor)}"
        )
    return without_subclass(tensor).expand(batch, targets, height, width)


def where(tensor: Tensor, activations: Tensor, pairs: Sequence[int]) -> Tensor:
    dense("where", tensor)
    if tensor.dtype != torch.bool:
        raise TypeError(f"where: expected dtype bool (as labels > 0 is), got {tensor.dtype}")
    batch, targets = pairs
    if tensor.shape not in ((batch,), (batch, targets)):
        raise ValueError(
            f"where: expected shape [{batch}] or [{batch},{targets}], got {_shape(tensor)}"
        )
    same_device("where", tensor, activations)
    tensor = without_subclass(tensor)
    full = tensor.unsqueeze(1) if tensor.dim() == 1 else tensor
    return full.expand(batch, targets)


def mask_logits(tensor: Tensor, features: Tensor) -> None:
    """[N,K,C,H,W] of the features' N, C, H and W."""
    floating("mask_logits", tensor)
    batch, *plane = features.shape
    if tensor.dim() != 5 or tensor.shape[0] != batch or list(tensor.shape[2:]) != plane:
        wanted = ",".join(str(size) for size in (batch, "K", *plane))
        raise ValueError(f"mask_logits: expected shape [{wanted}], got {_shape(tensor)}")
    same_device("mask_logits", tensor, features, "features")


def conv1x1(weight: Tensor, bias: Tensor, features: Tensor) -> None:
    """weight [K·C,C] and bias [K·C] of the features' C."""
    channels = features.shape[1]
    floating("weight", weight)
    floating("bias", bias)
    if (
        weight.dim() != 2
        or weight.shape[1] != channels
        or channels == 0
        or weight.shape[0] % channels != 0
    ):
        raise ValueError(f"weight: expected shape [K*{channels},{channels}], got {_shape(weight)}")
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape [{weight.shape[0]}], got {_shape(bias)}")
    same_device("weight", weight, features, "features")
    same_device("bias", bias, features, "features")


# ---- values ------------------------------------------------------------------------------------


def shares(name: str, tensor: Tensor) -> None:
    """Masks or regions of any shape, bool or floating in [0, 1]."""
    floating(name, tensor, and_bool=True, advice=_AS_SHARES)
    _values(name, tensor, None, -_ROUNDING, 1 + _ROUNDING, "values in [0, 1]", _OF_255)


def values_of_regions(tensor: Tensor, on: Tensor | None = None) -> None:
    """Regions [N,T,H,W] lie in [0, 1]; ``on``, bool [N,T]: which pairs are looked at."""
    _values("regions", tensor, on, -_ROUNDING, 1 + _ROUNDING, "values in [0, 1]", _OF_255)


def values_of_cell_weights(tensor: Tensor, on: Tensor | None = None) -> None:
    """Cell weights [N,T,H,W] are finite and >= 0; ``on`` as above."""
    most = torch.finfo(tensor.dtype).max if tensor.is_floating_point() else math.inf
    _values("cell_weights", tensor, on, 0, most, "finite values >= 0", "")


def values_of_mask(mask: Tensor) -> None:
    """A mask lies in [0, 1], but for what resizing may leave, on the CPU; NaN passes, as a network
    may have made it."""
    _on_cpu("mask", mask, _ROUNDING, "values in [0, 1]", _OF_255)


def values_of_labels(labels: Tensor) -> None:
    """Labels, soft ones among them, lie in [0, 1]; looked at as masks are."""
    _on_cpu("labels", labels, 0, "0 or 1, or between", " (of -1 and 1: labels > 0)")


def _on_cpu(name: str, tensor: Tensor, slack: float, expected: str, advice: str) -> None:
    compiling = torch.compiler.is_compiling()
    if tensor.device.type != "cpu" or compiling or not _has_values(tensor):
        return
    low, high = _range(tensor)
    if low < -slack or high > 1 + slack:  # not so of NaN
        raise ValueError(f"{name}: expected {expected}, got {low:g} to {high:g}{advice}")


def _values_of_signs(value: Tensor) -> None:
    """Signs are +1 or −1; looked at as regions are."""
    expected = "signs: expected +1 or -1 (of labels of 0 and 1: 2 * labels - 1)"
    if torch.compiler.is_compiling() or (value.is_cuda and _has_values(value)):
        torch._assert_async((value.abs() == 1).all(), expected)
    elif _has_values(value):
        wrong = value[value.abs() != 1]
        if wrong.numel():
            raise ValueError(f"{expected}, got {wrong[0].item():g}")


def value_error(error: RuntimeError) -> ValueError | None:
    """What a native op said of values (csrc/cpu/ops/cam.cpp); None for any other error."""
    _, found, words = str(error).partition("fastcam: value: ")
    return ValueError(words.partition("\n")[0]) if found else None


def _values(
    name: str,
    tensor: Tensor,
    on: Tensor | None,
    low: float,
    high: float,
    expected: str,
    advice: str,
) -> None:
    """On a CPU an error that says what came; on a GPU, and in a compiled graph, an assertion that
    the device makes by itself, so that nothing waits for it."""
    if tensor.dtype == torch.bool:
        return
    if torch.compiler.is_compiling() or (tensor.is_cuda and _has_values(tensor)):
        fits = tensor == tensor.clamp(low, high)  # NaN does not
        if on is not None:
            fits = fits | ~on[..., None, None]
        torch._assert_async(fits.all(), f"{name}: expected {expected}{advice}")
        return
    if not _has_values(tensor):
        return
    if on is not None and _has_values(on):
        tensor = tensor[on]
    least, most = _range(tensor)
    if not (low <= least and most <= high):
        came = f"got {least:g} to {most:g}{advice if most > high else ''}"
        raise ValueError(f"{name}: expected {expected}, {came}")


def _range(tensor: Tensor) -> tuple[float, float]:
    """The least and the largest value; both NaN if one is."""
    if tensor.numel() == 0:
        return 0.0, 0.0
    least, most = tensor.detach().aminmax()
    return least.item(), most.item()


def _has_values(tensor: Tensor) -> bool:
    """Not if it is a shape alone, a batch of vmap's, or recorded by torch.jit.trace."""
    if tensor.is_meta or torch._C._is_tracing():
        return False
    if transformed():
        functorch = torch._C._functorch
        while functorch.is_functorch_wrapped_tensor(tensor):
            if functorch.is_batchedtensor(tensor):
                return False
            tensor = functorch.get_unwrapped(tensor)
    return type(tensor) is Tensor or not _is_fake(tensor)


def _is_fake(tensor: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)
