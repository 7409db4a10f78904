"""The ops on a GPU: each forward and backward against the eager reference and ``torch.compile``.

One command measures everything and writes JSON and a table: median GPU time of many runs with a
cold L2, the share of the machine's own copy bandwidth, peak memory, and the AlexNet training step
with and without guidance.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import gpu_attend
from bench.cases import NETWORKS, Case
from bench.gpu_timing import EventTimer, Timer, copy_bandwidth
from bench.report import machine, markdown, markdown_rows, write
from bench.timing import Timing
from bench.training_step import measure_step, step_table
from fastcam import functional, reference
from fastcam._util.claim import claim
from fastcam._util.files import describe

BATCHES = (1, 32, 256, 1024)
STEP_BATCHES = (64, 256, 1024)
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


OPS = ("cam_iou forward", "cam_iou backward", "grad_cam forward", "grad_cam backward")


def least_bytes(case: Case) -> dict[str, int]:
    """Bytes that each op has to move at least: inputs, outputs, and what backward needs of both."""
    channels, (height, width) = NETWORKS[case.network][0], case.cells[0]
    pairs = case.batch * case.targets
    acc = 8 if case.dtype == torch.float64 else 4
    a, d = case.input_bytes
    cells, weights = pairs * height * width * acc, pairs * channels * acc
    per_pair = (
        a + d + 2 * cells + 2 * weights + pairs * (acc + 1),  # S, grad_map, α, dD; loss, status
        a + cells + 3 * weights + pairs * (acc + 1),  # grad_map, α, dD twice; scale, status
        a + d + cells + weights + pairs * acc,  # the map; its peak
        2 * a + 2 * cells + 2 * weights + pairs * acc,  # the map and its gradient; its peak
    )
    return dict(zip(OPS, per_pair, strict=True))


@dataclass(frozen=True)
class Row:
    """One op of one case, by candidate."""

    op: str
    case: str
    times: dict[str, Timing]
    peaks: dict[str, int | None]
    bandwidth_share: float

    def ratio(self, other: str) -> float:
        return self.times[other].median / self.times["fused"].median

    def cells(self) -> list[str]:
        fused = self.times["fused"]
        peaks = [self.peaks.get(name) for name in ("fused", "eager", "compiled")]
        return [
            self.op,
            self.case,
            f"{1e6 * fused.median:.1f} ({1e6 * fused.p20:.1f} to {1e6 * fused.p80:.1f})",
            f"{100 * self.bandwidth_share:.0f} %",
            *(f"{self.ratio(n):.2f}" if n in self.times else "" for n in ("eager", "compiled")),
            ", ".join("?" if peak is None else f"{peak / 2**20:.1f}" for peak in peaks),
        ]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Loss = Callable[..., Tensor]
Call = Callable[[], Any]


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


def calls(losses: dict[str, tuple[Loss, Loss]], case: Case) -> dict[str, dict[str, Call]]:
    """Op to candidate to call. Raises if a candidate's value is not the reference's."""
    activations, gradients, regions = case.inputs()
    map_gradient = torch.rand(regions.shape, dtype=torch.float32, device=regions.device)

    def forward(function: Loss, *more: Tensor) -> Call:
        return lambda: function(activations, gradients, *more)

    def backward(value: Tensor, gradient: Tensor | None = None) -> Call:
        leaves = (activations, gradients)
        return lambda: torch.autograd.grad(value, leaves, gradient, retain_graph=True)

    found: dict[str, dict[str, Call]] = {op: {} for op in OPS}
    values = {}
    for name, (loss, cam) in losses.items():
        steps = forward(loss, regions), forward(cam)
        values[name] = tuple(step() for step in steps)
        made = (
            steps[0],
            backward(values[name][0]),
            steps[1],
            backward(values[name][1], map_gradient),
        )
        for op, call in zip(OPS, made, strict=True):
            found[op][name] = call
    for name, value in values.items():  # nothing is timed that is not right
        try:
            torch.testing.assert_close(value, values["eager"], rtol=2e-3, atol=2e-3)
        except AssertionError as error:
            raise AssertionError(f"{case.name}, {name}: {error}") from None
    return found


def measure(
    case: Case, timer: Timer, bandwidth: float, losses: dict[str, tuple[Loss, Loss]]
) -> Iterator[Row]:
    """Every op of one case."""
    yield from rows_of(case.name, least_bytes(case), calls(losses, case), timer, bandwidth)


def measure_attend(
    case: gpu_attend.AttendCase,
    timer: Timer,
    bandwidth: float,
    functions: dict[str, gpu_attend.Functions],
) -> Iterator[Row]:
    """The attention ops of one case."""
    found = gpu_attend.calls(functions, case)
    yield from rows_of(case.name, gpu_attend.least_bytes(case), found, timer, bandwidth)


def rows_of(
    case: str,
    moved: dict[str, int],
    found: dict[str, dict[str, Call]],
    timer: Timer,
    bandwidth: float,
) -> Iterator[Row]:
    """``found``: op to candidate to call."""
    for op, by_name in found.items():
        times = {name: timer(run) for name, run in by_name.items()}
        peaks = {name: timer.peak_bytes(run) for name, run in by_name.items()}
        yield Row(op, case, times, peaks, moved[op] / times["fused"].median / bandwidth)


def report(
    chosen: Sequence[Case],
    timer: Timer,
    device: str,
    out: Path,
    *,
    attend: Sequence[gpu_attend.AttendCase] = (),
    compiled: bool = True,
    steps: Sequence[Callable[[], dict[str, Any]]] = (),
    copy_megabytes: int = 1024,
) -> None:
    """Measure everything; ``gpu.json`` and ``gpu.md`` in ``out`` are written after each case."""
    bandwidth = copy_bandwidth(timer, device, copy_megabytes)
    about = {**machine(), **gpu_versions(), "copy_GB_per_s": round(bandwidth / 1e9, 1)}
    losses = candidates(compiled)
    functions = gpu_attend.candidates(compiled)
    table = ""
    results: list[dict[str, Any]] = []

    def add(text: str, measured: Sequence[dict[str, Any]]) -> None:
        nonlocal table
        table += text
        results.extend(measured)
        write(out, "gpu", about, results, table)

    for step in steps:
        measured = step()
        seconds = {k: asdict(t) for k, t in measured["seconds"].items()}
        add(step_table(measured) + "\n", [{**measured, "seconds": seconds}])
        print(step_table(measured), flush=True)
    add(markdown(COLUMNS, []), [])
    for made in (
        *(measure(case, timer, bandwidth, losses) for case in chosen),
        *(measure_attend(case, timer, bandwidth, functions) for case in attend),
    ):
        rows = list(made)
        text = markdown_rows([row.cells() for row in rows])
        add(text, [row.as_json() for row in rows])
        print(text, end="", flush=True)
    print(f"written to {out}/gpu.json and gpu.md")


def gpu_versions() -> dict[str, Any]:
    """What else decides how fast a GPU is."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        driver = ""
    return {
        "cuda": torch.version.cuda,
        "driver": driver.strip().partition("\n")[0] or None,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def missing_gpu() -> str | None:
    """Why there is nothing to measure, or None."""
    if not torch.cuda.is_available():
        return "this machine has no CUDA device that torch can use; GPU timings need one"
    from fastcam.ops.library import cuda_missing

    return cuda_missing


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="timed runs of each call")
    parser.add_argument(
        "--only", default="", help='cases whose name holds this, e.g. "alexnet N=8 "'
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder to write")
    options = parser.parse_args(arguments)
    why = missing_gpu()
    if why is not None:
        print(f"bench gpu: {why}", file=sys.stderr)
        return 2
    chosen = [case for case in cases("cuda") if options.only in case.name]
    attend = [case for case in gpu_attend.cases("cuda") if options.only in case.name]
    if not chosen and not attend:
        print(f"bench gpu: no case holds {options.only!r} in its name", file=sys.stderr)
        return 2
    timer = EventTimer(torch.device("cuda"), options.runs)
    step_timer = EventTimer(torch.device("cuda"), max(10, options.runs // 5))
    torch._dynamo.config.recompile_limit = 256  # one entry for each case
    try:
        with claim(options.out):
            report(
                chosen,
                timer,
                "cuda",
                options.out,
                attend=attend,
                compiled=not options.no_compile,
                steps=[partial(measure_step, step_timer, "cuda", batch) for batch in STEP_BATCHES],
            )
    except OSError as error:
        print(f"bench gpu: {describe(error)}", file=sys.stderr)
        return 2
    return 0
