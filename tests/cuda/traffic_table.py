"""Global memory traffic of grad_cam's CUDA kernels, counted by the emulator.

The minimum: forward A + D + outputs; backward A + dA + dα + what forward saved for it, and the
upstream gradient. Run as a
script (or ``pytest -s test_cuda_traffic.py``) this prints the table.

Of 256 samples the first 4 are run: all samples of a launch move the same.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from emulation import Emulator, Traffic  # noqa: E402

from bench.report import replace_between  # noqa: E402

MEASURED = ROOT / "csrc" / "MEASURED.md"

# C, (H, W), (H', W')
NETWORKS = {
    "AlexNet": (256, 13, 6),
    "VGG-16": (512, 14, 14),
    "VGG-16, D after pooling": (512, 14, 7),
    "ResNet-50": (2048, 7, 7),
}
DTYPES = (torch.float32, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last")
BATCHES = (1, 8, 256)
RUN_OF_MANY = 4

HEADER = (
    "| network | N | dtype | layout | forward: bytes / minimum | sector efficiency "
    "| backward: bytes / minimum | sector efficiency |\n|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Measured:
    traffic: Traffic
    minimum: int

    @property
    def ratio(self) -> float:
        return self.traffic.bytes / self.minimum

    def __str__(self) -> str:
        return f"{self.ratio:.3f} | {self.traffic.sector_efficiency:.3f}"


def count_bytes(*tensors: torch.Tensor, samples: int) -> int:
    return sum(t[:samples].numel() * t.element_size() for t in tensors)


def measure(
    network: str, batch: int, dtype: torch.dtype, layout: str, targets: int = 1
) -> tuple[Measured, Measured]:
    """Forward and backward of ``grad_cam``."""
    channels, side, grad_side = NETWORKS[network]
    run = batch if batch <= 8 else RUN_OF_MANY

    def some(*sizes: int) -> torch.Tensor:
        # Memory for the whole batch; only what is run gets values.
        if layout == "channels_last":
            t = torch.empty(*sizes[:-3], *sizes[-2:], sizes[-3], dtype=dtype).movedim(-1, -3)
        else:
            t = torch.empty(sizes, dtype=dtype)
        t[:run] = torch.rand(run, *sizes[1:]).to(dtype)
        return t

    activations = some(batch, channels, side, side)
    gradients = some(batch, targets, channels, grad_side, grad_side)
    grad = torch.rand(batch, targets, side, side)

    device = Emulator(count=True, watch=False, part=(run, batch))
    cam, alpha, peak = device.cam_forward(activations, gradients)
    moved = (activations, gradients, cam, alpha, peak)
    forward = Measured(device.traffic, count_bytes(*moved, samples=run))

    device = Emulator(count=True, watch=False, part=(run, batch))
    grad_a, grad_d = device.cam_backward(activations, alpha, cam, peak, grad)
    moved = (activations, grad_a, grad_d, alpha, cam, peak, grad)
    return forward, Measured(device.traffic, count_bytes(*moved, samples=run))


def row(network: str, batch: int, dtype: torch.dtype, layout: str, *results: Measured) -> str:
    name = str(dtype).removeprefix("torch.")
    return f"| {network} | {batch} | {name} | {layout} | " + " | ".join(map(str, results)) + " |"


def main(arguments: list[str]) -> int:
    lines = [HEADER]
    print(HEADER)
    for network in NETWORKS:
        for dtype in DTYPES:
            for layout in LAYOUTS:
                for batch in BATCHES:
                    results = measure(network, batch, dtype, layout)
                    lines.append(row(network, batch, dtype, layout, *results))
                    print(lines[-1], flush=True)
    if arguments == ["--write"]:
        replace_between(MEASURED, "traffic", "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
