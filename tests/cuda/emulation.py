"""Runs the CUDA kernels on the CPU: builds the emulator and calls it on torch tensors.

The library is compiled with g++ on first use and kept under ``build/emulator``; it is rebuilt when
a source, a header or the compiler changes.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "emulator"

EMULATED = tuple(
    sorted(path.name for path in HERE.glob("emulated_*.cpp") if path.stem != "emulated_api")
)
KINDS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
BINARIZE = {"tone": 0, "sigmoid": 1, "hard": 2}

H100_MULTIPROCESSORS = 132
CLUSTER_SHARED_BYTES = 227 * 1024


class EmulatorError(RuntimeError):
    """What the emulator found wrong with a kernel."""


def compiler() -> str | None:
    """The C++ compiler, or None."""
    return shutil.which(os.environ.get("CXX", "g++"))


def _fingerprint(flags: Sequence[str]) -> str:
    digest = hashlib.sha256("\0".join(flags).encode())
    version = subprocess.run([str(compiler()), "--version"], capture_output=True, check=True)
    digest.update(version.stdout)
    headers = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cuh"}]
    for path in sorted([*headers, *HERE.glob("*.h"), *HERE.glob("*.cpp")]):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build(name: str, sources: Sequence[str], flags: Sequence[str]) -> Path:
    """Compile ``sources`` of this folder to ``build/emulator/<name>``, if not done already."""
    flags = [
        "-std=c++20",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        f"-I{ROOT}/csrc",
        *flags,
    ]
    BUILD.mkdir(parents=True, exist_ok=True)
    target = BUILD / name
    stamp = BUILD / f"{name}.stamp"
    fingerprint = _fingerprint([*flags, *sources])
    with open(BUILD / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists() and stamp.exists() and stamp.read_text() == fingerprint:
            return target

        def compile_one(source: str) -> Path:
            made = BUILD / f"{name}.{source}.o"
            command = [str(compiler()), *flags, "-c", str(HERE / source), "-o", str(made)]
            subprocess.run(command, check=True)
            return made

        with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
            objects = [str(made) for made in pool.map(compile_one, sources)]
        partial = BUILD / f"{name}.partial"
        link = [flag for flag in flags if flag.startswith("-fsanitize") or flag == "-shared"]
        subprocess.run(
            [str(compiler()), *link, *objects, "-pthread", "-o", str(partial)], check=True
        )
        os.replace(partial, target)
        stamp.write_text(fingerprint)
    return target


@functools.cache
def library() -> ctypes.CDLL:
    """The emulator as a shared library."""
    sources = [*EMULATED, "emulated_api.cpp", "emulator.cpp"]  # the slow ones first
    lib = ctypes.CDLL(str(build("libemulator.so", sources, ["-O1", "-shared"])))
    lib.emulator_new.restype = ctypes.c_void_p
    return lib


@dataclass(frozen=True)
class Traffic:
    """Global memory traffic of a launch."""

    loaded: int  # bytes; lanes of a warp that read the same bytes at once count once
    stored: int  # bytes
    sectors: int  # of 32 bytes
    accesses: int  # of whole warps
    vector_accesses: int  # of these, with 16 bytes a lane
    launches: int

    @property
    def bytes(self) -> int:
        return self.loaded + self.stored

    @property
    def sector_efficiency(self) -> float:
        """Bytes wanted over bytes of the sectors touched."""
        return self.bytes / (32 * self.sectors)


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _array(kind: type, values: Sequence[int]) -> ctypes.Array:
    return (kind * len(values))(*values)


def is_channels_first(t: Tensor) -> bool:
    channels, height, width = t.shape[-3:]
    c, h, w = t.stride()[-3:]
    return (
        (width == 1 or w == 1)
        and (height == 1 or h == width)
        and (channels == 1 or c == height * width)
    )


class Emulator:
    """One emulated GPU: fresh memory map, options, traffic counters."""

    def __init__(
        self,
        reversed: bool = False,
        count: bool = False,
        multiprocessors: int = H100_MULTIPROCESSORS,
        part: tuple[int, int] = (1, 1),
    ) -> None:
        """
        Args:
            reversed: run warps and blocks in descending order.
            count: count the traffic.
            multiprocessors: of the GPU that the launch is planned for.
            part: run only the first a of every b blocks of a launch.
        """
        self._lib = library()
        self._device = ctypes.c_void_p(self._lib.emulator_new(int(reversed), int(count), *part))
        self._multiprocessors = multiprocessors

    def __del__(self) -> None:
        if hasattr(self, "_device"):
            self._lib.emulator_delete(self._device)

    def _map(self, *tensors: Tensor | None) -> None:
        """Make exactly these tensors' own memory accessible."""
        for t in tensors:
            if t is not None and t.numel() > 0:
                span = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
                self._lib.emulator_add_buffer(
                    self._device, _pointer(t), ctypes.c_int64(span * t.element_size())
                )

    def _run(self, function: str, *arguments: object) -> None:
        message = ctypes.create_string_buffer(256)
        failed = getattr(self._lib, function)(self._device, *arguments, message, len(message))
        if failed:
            raise EmulatorError(message.value.decode())

    @property
    def traffic(self) -> Traffic:
        out = (ctypes.c_int64 * 6)()
        self._lib.emulator_traffic(self._device, out)
        return Traffic(*out)

    def planted_bug(self, bug: str, data: Tensor) -> None:
        self._map(data)
        self._run("emulate_planted_bug", bug.encode(), _pointer(data))

    def _inputs(self, activations: Tensor, gradients: Tensor) -> tuple[object, ...]:
        n, c, h, w = activations.shape
        q = gradients.shape[-2] * gradients.shape[-1]
        sizes = (n, gradients.shape[1], c, h * w, q)
        strides = (activations.stride(0), gradients.stride(0), gradients.stride(1))
        layouts = (not is_channels_first(activations), not is_channels_first(gradients))
        return (
            self._multiprocessors,
            KINDS[activations.dtype],
            KINDS[gradients.dtype],
            _array(ctypes.c_int64, sizes),
            _array(ctypes.c_int64, strides),
            _array(ctypes.c_int, layouts),
            _pointer(activations),
            _pointer(gradients),
        )

    def cam_forward(
        self, activations: Tensor, gradients: Tensor, normalize: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``_cam_forward``: cam, alpha, peak."""
        (n, c, h, w), t = activations.shape, gradients.shape[1]
        acc = torch.float64 if activations.dtype == torch.float64 else torch.float32
        cam = torch.full((n, t, h, w), torch.nan, dtype=acc)
        alpha = torch.full((n, t, c), torch.nan, dtype=acc)
        peak = torch.full((n, t), torch.nan, dtype=acc)
        self._map(activations, gradients, cam, alpha, peak)
        self._run(
            "emulate_cam_forward",
            *self._inputs(activations, gradients),
            int(normalize),
            *map(_pointer, (cam, alpha, peak)),
        )
        return cam, alpha, peak

    def cam_iou_forward(
        self,
        activations: Tensor,
        gradients: Tensor,
        regions: Tensor,
        cell_weights: Tensor | None = None,
        where: Tensor | None = None,
        threshold: float = 0.5,
        sharpness: float = 8.0,
        binarize: str = "tone",
        eps: float = 1e-6,
        max_pull: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``_cam_iou_forward``: loss, alpha, grad_map, status."""
        (n, c, h, w), t = activations.shape, gradients.shape[1]
        acc = torch.float64 if activations.dtype == torch.float64 else torch.float32
        loss = torch.full((n, t), torch.nan, dtype=acc)
        alpha = torch.full((n, t, c), torch.nan, dtype=acc)
        grad_map = torch.full((n, t, h, w), torch.nan, dtype=acc)
        status = torch.full((n, t), 255, dtype=torch.uint8)
        self._map(
            activations, gradients, regions, cell_weights, where, loss, alpha, grad_map, status
        )
        strides = [
            stride
            for cells in (regions, cell_weights, where)
            for stride in ((0, 0) if cells is None else cells.stride()[:2])
        ]
        self._run(
            "emulate_cam_iou_forward",
            *self._inputs(activations, gradients),
            *map(_pointer, (regions, cell_weights, where)),
            _array(ctypes.c_int64, strides),
            ctypes.c_double(threshold),
            ctypes.c_double(sharpness),
            BINARIZE[binarize],
            ctypes.c_double(eps),
            ctypes.c_double(max_pull),
            *map(_pointer, (loss, alpha, grad_map, status)),
        )
        return loss, alpha, grad_map, status

    def cam_backward(
        self,
        activations: Tensor,
        alpha: Tensor,
        grad_map: Tensor,
        scale: Tensor | None = None,
        status: Tensor | None = None,
        need_activations: bool = True,
        need_gradients: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        """``_cam_backward``: grad_activations, grad_gradients."""
        (n, c, h, w), t = activations.shape, alpha.shape[1]
        channels_last = not is_channels_first(activations)
        grad_a = grad_d = None
        if need_activations:
            layout = torch.channels_last if channels_last else torch.contiguous_format
            grad_a = torch.empty((n, c, h, w), dtype=activations.dtype, memory_format=layout).fill_(
                torch.nan
            )
        if need_gradients:
            grad_d = torch.full((n, t, c), torch.nan, dtype=alpha.dtype)
        self._map(activations, alpha, grad_map, scale, status, grad_a, grad_d)
        self._run(
            "emulate_cam_backward",
            self._multiprocessors,
            KINDS[activations.dtype],
            _array(ctypes.c_int64, (n, t, c, h * w)),
            _array(
                ctypes.c_int64,
                (activations.stride(0), *((0, 0) if scale is None else scale.stride())),
            ),
            int(channels_last),
            *map(_pointer, (activations, alpha, grad_map, scale, status, grad_a, grad_d)),
        )
        return grad_a, grad_d

    def cam_loss_forward(
        self,
        activations: Tensor,
        gradients: Tensor,
        regions: Tensor,
        cell_weights: Tensor | None,
        where: Tensor | None,
        loss: int,
        params: Sequence[float],
        max_pull: float,
        reduction: int,
        need_gradients: bool,
        shared_limit: int = CLUSTER_SHARED_BYTES,
    ) -> tuple[Tensor, ...]:
        """``_cam_loss_forward``: loss, status, reduced, count, alpha, grad_map, grad_gradients.

        ``shared_limit`` 0: in several launches, as on a GPU without clusters.
        """
        (n, c, h, w), t = activations.shape, gradients.shape[1]
        acc = torch.float64 if activations.dtype == torch.float64 else torch.float32
        losses = torch.full((n, t), torch.nan, dtype=acc)
        status = torch.full((n, t), 255, dtype=torch.uint8)
        one = () if reduction else (0,)
        reduced, count = (torch.full(one, torch.nan, dtype=acc) for _ in range(2))
        alpha = torch.full((n, t, c), torch.nan, dtype=acc)
        grad_map = torch.full((n, t, h, w), torch.nan, dtype=acc)
        grad_gradients = torch.full((n, t, c), torch.nan, dtype=acc) if need_gradients else None
        outputs = (losses, status, reduced, count, alpha, grad_map, grad_gradients)
        self._map(activations, gradients, regions, cell_weights, where, *outputs)
        strides = [
            stride
            for cells in (regions, cell_weights, where)
            for stride in ((0, 0) if cells is None else cells.stride()[:2])
        ]
        self._run(
            "emulate_cam_loss_forward",
            *self._inputs(activations, gradients),
            *map(_pointer, (regions, cell_weights, where)),
            _array(ctypes.c_int64, strides),
            _array(ctypes.c_int64, (h, w)),
            loss,
            _array(ctypes.c_double, [*params, *[0.0] * (4 - len(params))]),
            ctypes.c_double(max_pull),
            reduction,
            shared_limit,
            *map(_pointer, outputs),
        )
        return (*outputs[:6], alpha.new_empty(0) if grad_gradients is None else grad_gradients)

    def cam_loss_backward(
        self,
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
        """``_cam_loss_backward``: grad_activations, scaled_gradients."""
        (n, t, c), (h, w) = alpha.shape, grad_map.shape[2:]
        grad_a = scaled = None
        kind = next(key for key, value in KINDS.items() if value == dtype)
        if need_activations:
            layout = torch.channels_last if channels_last else torch.contiguous_format
            grad_a = torch.empty((n, c, h, w), dtype=kind, memory_format=layout).fill_(torch.nan)
        if grad_gradients is not None:
            scaled = torch.full((n, t, c), torch.nan, dtype=alpha.dtype)
        inputs = (alpha, grad_map, grad_gradients, status, grad, count)
        self._map(*inputs, grad_a, scaled)
        self._run(
            "emulate_cam_loss_backward",
            self._multiprocessors,
            dtype,
            _array(ctypes.c_int64, (n, t, c, h * w)),
            _array(ctypes.c_int64, grad.stride()),
            int(channels_last),
            *map(_pointer, (*inputs, grad_a, scaled)),
        )
        return (
            alpha.new_empty(0, dtype=kind) if grad_a is None else grad_a,
            alpha.new_empty(0) if scaled is None else scaled,
        )

    def tone_curve(self, mask: Tensor, n: float, beta: float, grad: Tensor | None = None) -> Tensor:
        """``_tone_curve``, or with ``grad`` ``_tone_curve_backward``, of contiguous tensors."""
        out = torch.full_like(mask, torch.nan)
        self._map(mask, grad, out)
        self._run(
            "emulate_tone_curve",
            self._multiprocessors,
            KINDS[mask.dtype],
            ctypes.c_int64(mask.numel()),
            _array(ctypes.c_double, (n, beta)),
            *map(_pointer, (mask, grad, out)),
        )
        return out

    def attend_forward(
        self,
        features: Tensor,
        logits: Tensor,
        n: Sequence[float],
        beta: Sequence[float],
        pool: bool,
    ) -> tuple[Tensor, Tensor]:
        """``_attend_forward`` of contiguous tensors: out, mask_sum."""
        acc = torch.float64 if features.dtype == torch.float64 else torch.float32
        shape = (len(n), *(logits.shape[:3] if pool else logits.shape))
        out = torch.full(shape, torch.nan, dtype=features.dtype)
        mask_sum = torch.full(logits.shape[:3], torch.nan, dtype=acc)
        self._map(features, logits, out, mask_sum)
        curves = [value for curve in zip(n, beta, strict=True) for value in curve]
        self._run(
            "emulate_attend_forward",
            self._multiprocessors,
            KINDS[features.dtype],
            _array(ctypes.c_int64, (*logits.shape[:3], features[0, 0].numel())),
            int(pool),
            ctypes.c_int64(len(n)),
            _array(ctypes.c_double, curves),
            *map(_pointer, (features, logits, out, mask_sum)),
        )
        return out, mask_sum

    def attend_backward(
        self,
        features: Tensor,
        logits: Tensor,
        grad_out: Tensor,
        grad_mask_sum: Tensor | None,
        n: float,
        beta: float,
        pool: bool,
        need_features: bool = True,
        need_logits: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        """``_attend_backward`` of contiguous tensors: grad_features, grad_logits."""
        grads = [
            torch.full_like(t, torch.nan) if needed else None
            for t, needed in ((features, need_features), (logits, need_logits))
        ]
        self._map(features, logits, grad_out, grad_mask_sum, *grads)
        self._run(
            "emulate_attend_backward",
            self._multiprocessors,
            KINDS[features.dtype],
            _array(ctypes.c_int64, (*logits.shape[:3], features[0, 0].numel())),
            int(pool),
            _array(ctypes.c_double, (n, beta)),
            *map(_pointer, (features, logits, grad_out, grad_mask_sum, *grads)),
        )
        return grads[0], grads[1]
