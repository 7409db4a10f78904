"""The ops on a GPU: each forward and backward against the eager reference and ``torch.compile``.

One command measures everything and writes JSON and a table: median GPU time of many runs with a
cold L2, the share of the machine's own copy bandwidth, peak memory, and the AlexNet training step
with and without guidance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cases import NETWORKS, Case
from bench.gpu_timing import EventTimer, Timer, copy_bandwidth
from bench.report import machine, markdown, write
from bench.timing import Timing
from fastcam import functional, reference

BATCHES = (1, 8, 32, 128, 256, 1024)
COLUMNS = (
    "op",
    "case",
    "fused, µs (p20 to p80)",
    "share of copy bandwidth",
    "eager / fused",
    "compiled / fused",
    "peak memory: fused, eager, compiled (MiB)",
)


def cases(device: str) -> tuple[Case, ...]:
    kinds = [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
    return tuple(
        Case(network, batch, dtype=dtype, channels_last=channels_last, device=device)
        for network in NETWORKS
        for dtype, channels_last in kinds
        for batch in BATCHES
    ) + tuple(Case("alexnet", 64, targets=targets, device=device) for targets in (4, 16))


def least_bytes(case: Case) -> tuple[int, int]:
    """Bytes that forward and backward of ``cam_iou`` have to move at least."""
    channels, (height, width), (grad_height, grad_width) = NETWORKS[case.network]
    pairs = case.batch * case.targets
    element = torch.empty((), dtype=case.dtype).element_size()
    acc = 8 if case.dtype == torch.float64 else 4
    a = case.batch * channels * height * width * element
    d = pairs * channels * grad_height * grad_width * element
    cells, weights = pairs * height * width * acc, pairs * channels * acc
    forward = a + d + cells + (cells + weights + pairs * (acc + 1))
    backward = 2 * a + cells + 2 * weights + pairs * (acc + 1)
    return forward, backward


@dataclass(frozen=True)
class Row:
    """One op of one case, by candidate."""

    op: str
    case: str
    times: dict[str, Timing]
    peaks: dict[str, int | None]
    bandwidth_share: float | None

    def ratio(self, other: str) -> float:
        return self.times[other].median / self.times["fused"].median

    def cells(self) -> list[str]:
        fused = self.times["fused"]
        share = "" if self.bandwidth_share is None else f"{100 * self.bandwidth_share:.0f} %"
        peaks = [self.peaks.get(name) for name in ("fused", "eager", "compiled")]
        return [
            self.op,
            self.case,
            f"{1e6 * fused.median:.1f} ({1e6 * fused.p20:.1f} to {1e6 * fused.p80:.1f})",
            share,
            *(f"{self.ratio(n):.2f}" if n in self.times else "" for n in ("eager", "compiled")),
            ", ".join("?" if peak is None else f"{peak / 2**20:.1f}" for peak in peaks),
        ]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Loss = Callable[..., Tensor]


def candidates(compiled: bool) -> dict[str, tuple[Loss, Loss]]:
    """Name to (cam_iou_loss, grad_cam)."""
    found: dict[str, tuple[Loss, Loss]] = {
        "fused": (functional.cam_iou_loss, functional.grad_cam),
        "eager": (reference.cam_iou_loss, reference.grad_cam),
    }
    if compiled:
        found["compiled"] = (
            torch.compile(reference.cam_iou_loss, dynamic=False),
            torch.compile(reference.grad_cam, dynamic=False),
        )
    return found


def measure(
    case: Case, timer: Timer, bandwidth: float, losses: dict[str, tuple[Loss, Loss]]
) -> Iterator[Row]:
    """``cam_iou`` forward, ``cam_iou`` backward, ``grad_cam`` forward."""
    activations, gradients, regions = case.inputs()
    runs: dict[str, dict[str, Callable[[], Any]]] = {}
    values: dict[str, Tensor] = {}
    for name, (loss, cam) in losses.items():
        value = values[name] = loss(activations, gradients, regions)
        with torch.no_grad():
            cam(activations, gradients)
        runs.setdefault("cam_iou forward", {})[name] = lambda f=loss: f(
            activations, gradients, regions
        )
        runs.setdefault("cam_iou backward", {})[name] = lambda v=value: torch.autograd.grad(
            v, (activations, gradients), retain_graph=True
        )
        runs.setdefault("grad_cam forward", {})[name] = lambda f=cam: _without_grad(
            f, activations, gradients
        )
    for name, value in values.items():  # nothing is timed that is not right
        torch.testing.assert_close(
            value, values["eager"], rtol=2e-3, atol=2e-3, msg=lambda m, n=name: f"{n}: {m}"
        )
    moved = dict(zip(("cam_iou forward", "cam_iou backward"), least_bytes(case), strict=True))
    for op, by_name in runs.items():
        times = {name: timer(run) for name, run in by_name.items()}
        peaks = {name: timer.peak_bytes(run) for name, run in by_name.items()}
        share = moved[op] / times["fused"].median / bandwidth if op in moved else None
        yield Row(op, case.name, times, peaks, share)


def _without_grad(f: Loss, *tensors: Tensor) -> Tensor:
    with torch.no_grad():
        return f(*tensors)


def training_step(timer: Timer, device: str, batch: int = 64, size: int = 224) -> dict[str, Any]:
    """AlexNet: a plain step, one guided by the fused loss, one guided by the reference."""
    import torchvision

    import fastcam

    model = torchvision.models.alexnet(num_classes=40).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = (torch.rand(batch, 40, device=device) > 0.5).float()
    criterion = fastcam.IoUCamLoss()
    bce = torch.nn.functional.binary_cross_entropy_with_logits

    def plain() -> None:
        optimizer.zero_grad(set_to_none=True)
        bce(model(images), labels).backward()
        optimizer.step()

    def fused() -> None:
        optimizer.zero_grad(set_to_none=True)
        with fastcam.ActivationTap(model, "features.11", gradient_at="features.12") as tap:
            logits = model(images)
            cells = tap.activations.shape[-2:]
            regions = torch.ones(batch, *cells, device=device)
            loss = bce(logits, labels) + 5.0 * criterion(logits, tap, regions, targets=36)
        loss.backward()
        optimizer.step()

    def eager() -> None:
        optimizer.zero_grad(set_to_none=True)
        activations = model.features[:12](images)
        pooled = model.avgpool(model.features[12:](activations))
        logits = model.classifier(torch.flatten(pooled, 1))
        (gradients,) = torch.autograd.grad(logits[:, 36].sum(), activations, create_graph=True)
        regions = torch.ones(batch, *activations.shape[-2:], device=device)
        loss = bce(logits, labels)
        loss = loss + 5.0 * reference.cam_iou_loss(activations, gradients, regions)
        loss.backward()
        optimizer.step()

    steps = {"plain": plain, "guided, fused": fused, "guided, eager autograd": eager}
    return {
        "step": f"AlexNet, {batch} images of {size} px, float32",
        "seconds": {name: timer(step) for name, step in steps.items()},
        "peak_bytes": {name: timer.peak_bytes(step) for name, step in steps.items()},
    }


def step_table(step: dict[str, Any]) -> str:
    seconds, peaks = step["seconds"], step["peak_bytes"]
    plain = seconds["plain"].median
    rows = [
        [
            name,
            f"{1e3 * t.median:.2f} ({1e3 * t.p20:.2f} to {1e3 * t.p80:.2f})",
            f"{100 * (t.median / plain - 1):+.0f} %",
            "?" if peaks[name] is None else f"{peaks[name] / 2**20:.0f}",
        ]
        for name, t in seconds.items()
    ]
    return markdown((step["step"], "ms (p20 to p80)", "against plain", "peak MiB"), rows)


def report(
    chosen: Sequence[Case],
    timer: Timer,
    device: str,
    out: Path,
    *,
    compiled: bool = True,
    step: Callable[[], dict[str, Any]] | None = None,
    copy_megabytes: int = 1024,
) -> None:
    """Measure everything and write ``gpu.json`` and ``gpu.md`` into ``out``."""
    bandwidth = copy_bandwidth(timer, device, copy_megabytes)
    about = {**machine(), "cuda": torch.version.cuda, "copy_GB_per_s": round(bandwidth / 1e9, 1)}
    losses = candidates(compiled)
    rows = []
    for case in chosen:
        for row in measure(case, timer, bandwidth, losses):
            rows.append(row)
            print(" | ".join(row.cells()), flush=True)
    table = markdown(COLUMNS, [row.cells() for row in rows])
    results = [row.as_json() for row in rows]
    if step is not None:
        measured = step()
        table += "\n" + step_table(measured)
        results.append(
            {**measured, "seconds": {k: asdict(t) for k, t in measured["seconds"].items()}}
        )
    write(out, "gpu", about, results, table)
    print(f"\n{table}\nwritten to {out}/gpu.json and gpu.md")


def missing_gpu() -> str | None:
    """Why there is nothing to measure, or None."""
    if not torch.cuda.is_available():
        return "this machine has no CUDA device that torch can use; GPU timings need one"
    from fastcam._ops import cuda_missing

    return cuda_missing


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="timed runs of each call")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder to write")
    options = parser.parse_args(arguments)
    why = missing_gpu()
    if why is not None:
        print(f"bench gpu: {why}", file=sys.stderr)
        return 2
    timer = EventTimer(torch.device("cuda"), options.runs)
    torch._dynamo.config.cache_size_limit = 256  # one entry for each case
    report(
        cases("cuda"),
        timer,
        "cuda",
        options.out,
        compiled=not options.no_compile,
        step=lambda: training_step(timer, "cuda"),
    )
    return 0
