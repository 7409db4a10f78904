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
from typing import Any

import torch
from torch import Tensor

import build_config
from fastcam.ops import attend_conv
from fastcam.ops.cam_loss import map_loss
from fastcam.ops.library import DTYPES, is_channels_last

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "emulator"

KINDS = {dtype: kind for kind, dtype in enumerate(DTYPES)}

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
    suffixes = {".h", ".cuh", ".cpp", ".cu"}
    files = [p for d in (ROOT / "csrc", HERE) for p in d.rglob("*") if p.suffix in suffixes]
    for path in sorted(files):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build(
    name: str, sources: Sequence[str], flags: Sequence[str], libraries: Sequence[str] = ()
) -> Path:
    """Compile ``sources`` (from this folder) to ``build/emulator/<name>``, if not done already."""
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    flags = ["-std=c++20", "-fPIC", *warnings, *flags, f"-I{HERE}", f"-I{ROOT}/csrc"]
    BUILD.mkdir(parents=True, exist_ok=True)
    target = BUILD / name
    stamp = BUILD / f"{name}.stamp"
    fingerprint = _fingerprint([*flags, *sources])
    with open(BUILD / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists() and stamp.exists() and stamp.read_text() == fingerprint:
            return target

        def compile_one(source: str) -> Path:
            made = BUILD / f"{name}.{source.replace('/', '_')}.o"
            watched = source.endswith(".cu") or source == "emulated_api.cpp"
            calls = ["-fsanitize=thread"] if watched else []  # those of shared_accesses.cpp
            command = [str(compiler()), *flags, *calls, "-x", "c++", "-c", str(HERE / source)]
            command += ["-o", str(made)]
            subprocess.run(command, check=True)
            return made

        with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
            objects = [str(made) for made in pool.map(compile_one, sources)]
        partial = BUILD / f"{name}.partial"
        link = [flag for flag in flags if flag.startswith("-fsanitize") or flag == "-shared"]
        subprocess.run(
            [str(compiler()), *link, *objects, *libraries, "-o", str(partial)],
            check=True,
        )
        os.replace(partial, target)
        stamp.write_text(fingerprint)
    return target


@functools.cache
def library() -> ctypes.CDLL:
    """The emulator as a shared library.

    It holds the ops of ``csrc/cuda`` as they are, launched by ``replaced_headers/cuda/launch.cuh``
    and registered as ``torch.ops.fastcam_emulated`` for CPU tensors (hence ``-Dfastcam``).
    """
    torch_path = Path(torch.__file__).parent
    flags = [
        "-O1",
        "-g1",
        "-shared",
        "-Wno-attributes",
        "-Dfastcam=fastcam_emulated",
        f"-I{HERE}/replaced_headers",
    ]
    flags += [*build_config.STABLE_ABI_DEFINES, "-isystem", str(torch_path / "include")]
    ops = [*build_config.sources("_C_cuda"), "csrc/ops/registration.cpp"]
    emulator = ("emulated_api.cpp", "emulator.cpp", "shared_accesses.cpp")
    sources = [*(f"../../{op}" for op in ops), *emulator]
    link = [f"-L{torch_path}/lib", "-ltorch_cpu"]
    lib = ctypes.CDLL(str(build("libemulator.so", sources, flags, link)))
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


class Emulator:
    """One emulated GPU: fresh memory map, options, traffic counters."""

    def __init__(
        self,
        reversed: bool = False,
        count: bool = False,
        multiprocessors: int = H100_MULTIPROCESSORS,
        part: tuple[int, int] = (1, 1),
        cluster_bytes: int = 0,
        kernels: str = "",
        seed: int = 0,
        watch: bool = True,
    ) -> None:
        """
        Args:
            reversed: run threads and blocks in descending order.
            count: count the traffic.
            multiprocessors: of the GPU that the launch is planned for.
            part: run only the first a of every b blocks of a launch.
            cluster_bytes: shared memory of a block of a cluster (CLUSTER_SHARED_BYTES); 0: none
                are used, as on GPUs before sm_90.
            kernels: what ``FASTCAM_CAM_KERNELS`` would say.
            seed: not 0: run warps in an order drawn from it, in which copies end at any time.
            watch: data races are errors.
        """
        self._lib = library()
        numbers = int(reversed), int(count), *part, multiprocessors, cluster_bytes, seed, int(watch)
        self._device = ctypes.c_void_p(self._lib.emulator_new(*numbers, kernels.encode()))

    def __del__(self) -> None:
        if hasattr(self, "_device"):
            self._lib.emulator_delete(self._device)

    def run(self, op: str, *arguments: Any) -> Any:
        """The op of this name in ``torch.ops.fastcam``, on this GPU."""
        self._lib.emulator_use(self._device)
        try:
            return getattr(torch.ops.fastcam_emulated, op)(*arguments)
        except RuntimeError as error:
            raise EmulatorError(str(error)) from error

    @property
    def traffic(self) -> Traffic:
        out = (ctypes.c_int64 * 6)()
        self._lib.emulator_traffic(self._device, out)
        return Traffic(*out)

    def planted_bug(self, bug: str, data: Tensor) -> None:
        self._lib.emulator_add_buffer(self._device, _pointer(data), ctypes.c_int64(data.nbytes))
        message = ctypes.create_string_buffer(256)
        if self._lib.emulate_planted_bug(
            self._device, bug.encode(), _pointer(data), message, len(message)
        ):
            raise EmulatorError(message.value.decode())

    # The ops with the defaults of the functions that call them.

    def cam_forward(self, activations: Tensor, gradients: Tensor, normalize: bool = True) -> Any:
        """cam, alpha, peak."""
        return self.run("_cam_forward", activations, gradients, normalize)

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
        need_gradients: bool = False,
    ) -> Any:
        """loss, alpha, grad_map, status, grad_gradients: one launch without, two with the last."""
        inputs = (activations, gradients, regions, cell_weights, where)
        loss = map_loss("iou", threshold=threshold, sharpness=sharpness, eps=eps, binarize=binarize)
        options = (loss.kind, [*loss.params], max_pull, 0)
        outputs = self.run("_cam_loss_forward", *inputs, *options, need_gradients)
        loss, status, _, _, alpha, grad_map, grad_gradients = outputs
        return loss, alpha, grad_map, status, grad_gradients

    def cam_iou_backward(
        self,
        activations: Tensor,
        alpha: Tensor,
        grad_map: Tensor,
        status: Tensor,
        grad_gradients: Tensor | None,
        scale: Tensor | None = None,
    ) -> Any:
        """grad_activations, grad_gradients, times ``scale`` (of each pair)."""
        scale = torch.ones_like(alpha[..., 0]) if scale is None else scale
        like = KINDS[activations.dtype], is_channels_last(activations)
        saved = (alpha, grad_map, grad_gradients, status, scale, None)
        return self.run("_cam_loss_backward", *saved, *like, True)

    def cam_backward(
        self,
        activations: Tensor,
        alpha: Tensor,
        cam: Tensor,
        peak: Tensor,
        grad: Tensor,
        normalize: bool = True,
        need_activations: bool = True,
        need_gradients: bool = True,
    ) -> Any:
        """grad_activations, grad_gradients; empty if not needed."""
        inputs = (activations, alpha, cam, peak, grad, normalize)
        return self.run("_cam_backward", *inputs, need_activations, need_gradients)

    def tone_curve(self, mask: Tensor, n: float, beta: float, grad: Tensor | None = None) -> Tensor:
        """g, or with ``grad`` the gradient of the mask."""
        if grad is None:
            return self.run("_tone_curve", mask, n, beta)
        return self.run("_tone_curve_backward", mask, grad, n, beta)

    def attend_forward(self, *arguments: Any) -> Any:
        """out, mask_sum."""
        return self.run("_attend_forward", *arguments)

    def attend_backward(
        self, *arguments: Any, need_features: bool = True, need_logits: bool = True
    ) -> Any:
        """grad_features, grad_logits; empty if not needed."""
        return self.run("_attend_backward", *arguments, need_features, need_logits)


class EmulatedOps:
    """The raw ops on emulated CUDA kernels, to stand where ``torch.ops.fastcam`` does."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def emulator(self) -> Emulator:
        return Emulator(**self.options)

    def __getattr__(self, op: str) -> Any:
        run = functools.partial(self._run, op)
        run.default = run  # type: ignore[attr-defined]  # as of torch's ops: the one overload
        return run

    def _run(self, op: str, *arguments: Any) -> Any:
        return self.emulator().run(op, *arguments)

    # attend_conv1x1: the loops of fastcam/ops/attend_conv.py, whose GEMM is the library's.

    def _attend_conv1x1_forward(self, *arguments: Any) -> Any:
        return attend_conv._forward(*arguments)

    def _attend_conv1x1_backward(self, *arguments: Any) -> Any:
        return attend_conv._backward(*arguments)
