"""The ops on a GPU: each forward and backward against the eager reference and ``torch.compile``.

One command measures everything and writes JSON and a table: median GPU time of many runs with a
cold L2, the share of the machine's own copy bandwidth, launches, peak memory, and AlexNet's
training step with and without guidance. With ``--budget`` the most important comes first, and the
table says what was left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import gpu_attend, gpu_cam
from bench.budget import Budget
from bench.gpu_timing import EventTimer, Timer, copy_bandwidth, wall_clock
from bench.report import first_line, machine, markdown, met, write
from bench.timing import Timing
from bench.training_step import (
    COMPILED,
    EAGER,
    GRAPH,
    Clock,
    StepRow,
    measure_step,
    step_tables,
)
from fastcam._util.claim import claim
from fastcam._util.files import describe

COLUMNS = (
    "op",
    "case",
    "fused, µs (p20 to p80)",
    "share of copy bandwidth",
    "eager / fused",
    "compiled / fused",
    "gate",
    "kernels+memsets+memcpys: fused, eager, compiled",
    "peak memory: fused, eager, compiled (MiB)",
)
CANDIDATES = ("fused", "eager", "compiled")
GUESSES = {  # seconds of the first task of a kind, what torch.compile loads once included
    "cam_iou": 20.0, "grad_cam": 10.0, "attend": 25.0, "launches": 2.0,
    f"step, {EAGER}": 10.0, f"step, {COMPILED}": 25.0, f"step, {GRAPH}": 10.0,
}  # fmt: skip
FOR_LAUNCHES = 0.1  # of the budget; they are counted last


@dataclass(frozen=True)
class Row:
    """One op of one case, by candidate."""

    op: str
    case: str
    times: dict[str, Timing]
    peaks: dict[str, int | None]
    bandwidth_share: float
    bound: float | None = None  # at least so many times faster than compiled
    launches: dict[str, dict[str, int] | None] = field(default_factory=dict)

    def ratio(self, other: str) -> float | None:
        if other not in self.times:
            return None
        return self.times[other].median / self.times["fused"].median

    def verdict(self) -> str:
        ratio = self.ratio("compiled")
        if self.bound is None or ratio is None:
            return ""
        return f"≥ {self.bound:g}: {met(ratio >= self.bound)}"

    def cells(self) -> list[str]:
        fused, ratios = self.times["fused"], map(self.ratio, ("eager", "compiled"))
        peaks = [self.peaks.get(name) for name in CANDIDATES]
        launches = [self.launches.get(name) for name in CANDIDATES]
        return [
            self.op,
            self.case,
            f"{1e6 * fused.median:.1f} ({1e6 * fused.p20:.1f} to {1e6 * fused.p80:.1f})",
            f"{100 * self.bandwidth_share:.0f} %",
            *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            self.verdict(),
            _joined(launches, lambda counts: "+".join(map(str, counts.values()))),
            _joined(peaks, lambda peak: f"{peak / 2**20:.1f}"),
        ]


def _joined(values: Sequence[Any], text: Callable[[Any], str]) -> str:
    """Nothing where no candidate has a value."""
    if all(value is None for value in values):
        return ""
    return ", ".join("?" if value is None else text(value) for value in values)


Call = Callable[[], Any]
Calls = Mapping[str, Mapping[str, Call]]  # op to candidate to call


def measure(
    case: str,
    moved: Mapping[str, int],
    make: Callable[[], Calls],
    timer: Timer,
    bandwidth: float,
    bound: float | None = None,
) -> list[Row]:
    """Every op of one case; with a bound, the sum of the two in a row of its own."""
    rows = []
    for op, by_name in make().items():
        times = {name: timer(run) for name, run in by_name.items()}
        peaks = {name: timer.peak_bytes(run) for name, run in by_name.items()}
        share = moved[op] / times["fused"].median / bandwidth
        rows.append(Row(op, case, times, peaks, share))
    if bound is not None:
        forward, backward = rows
        times = {n: _sum(forward.times[n], backward.times[n]) for n in forward.times}
        share = sum(moved.values()) / times["fused"].median / bandwidth
        rows.append(Row(f"{forward.op} + backward", case, times, {}, share, bound))
    return rows


def _sum(one: Timing, other: Timing) -> Timing:
    """Of two calls after each other, each with a cold L2."""
    return Timing(
        one.p20 + other.p20,
        one.median + other.median,
        one.p80 + other.p80,
        min(one.runs, other.runs),
    )


def count_launches(rows: Sequence[Row], make: Callable[[], Calls], timer: Timer) -> None:
    """Enter into the rows of one case what each call launches."""
    for op, by_name in make().items():
        for row in rows:
            if row.op == op:
                row.launches.update({name: timer.launches(run) for name, run in by_name.items()})
    if rows[-1].bound is not None:
        forward, backward, both = rows
        for name, one in forward.launches.items():
            other = backward.launches[name]
            if one is not None and other is not None:
                both.launches[name] = {kind: one[kind] + other[kind] for kind in one}


@dataclass(frozen=True)
class Task:
    """Tasks of one kind take about as long as each other."""

    name: str
    kind: str
    run: Callable[[], list[Row] | list[StepRow]]
    count: Callable[[Sequence[Row]], None] | None = None  # launches, into the rows that it made


def plan(
    device: str,
    timer: Timer,
    step_timer: Timer,
    clock: Clock,
    bandwidth: float,
    compiled: bool = True,
) -> list[Task]:
    """Everything, the most important first."""
    functions, attend = gpu_cam.candidates(compiled), gpu_attend.candidates(compiled)

    def op_task(kind: str, case: str, moved: Mapping[str, int], make: Any, bound: Any) -> Task:
        def run() -> list[Row] | list[StepRow]:
            with gpu_attend.without_tf32():
                return measure(case, moved, make, timer, bandwidth, bound)

        return Task(
            f"{kind} {case}",
            kind,
            run,
            partial(count_launches, make=make, timer=timer),
        )

    def cam(family: str) -> list[Task]:
        return [
            op_task(
                family,
                case.name,
                gpu_cam.least_bytes(family, case),
                partial(gpu_cam.calls, family, functions[family], case),
                gpu_cam.bound(case) if family == "cam_iou" else None,
            )
            for case in gpu_cam.cases(device)
        ]

    def steps(loop: str, *batches: int) -> list[Task]:
        return [
            Task(
                f"step N={batch} {loop}",
                f"step, {loop}",
                partial(measure_step, loop, batch, step_timer, clock, device),
            )
            for batch in batches
            if compiled or loop != COMPILED
        ]

    loss, maps = cam("cam_iou"), cam("grad_cam")
    return [
        *steps(EAGER, 64, 256),
        *loss[: gpu_cam.GATES],
        *steps(GRAPH, 64, 256),
        *steps(COMPILED, 64, 256),
        *steps(EAGER, 32, 1024),
        *steps(GRAPH, 32, 1024),
        *loss[gpu_cam.GATES :],
        *maps[: gpu_cam.GATES],
        *(
            op_task(
                "attend",
                case.name,
                gpu_attend.least_bytes(case),
                partial(gpu_attend.calls, attend, case),
                None,
            )
            for case in gpu_attend.cases(device)
        ),
        *steps(COMPILED, 32, 1024),
        *maps[gpu_cam.GATES :],
    ]


class Report:
    """What was measured so far, and what was not; ``gpu.json`` and ``gpu.md`` in ``out``."""

    def __init__(self, out: Path, about: Mapping[str, Any], tasks: Sequence[Task]) -> None:
        self.out, self.about = out, about
        self.rows: dict[str, list[Row]] = {}  # of each task
        self.steps: list[StepRow] = []
        self.missing = {task.name: "" for task in tasks}  # and why, if it raised

    def add(self, task: str, found: Iterable[Row | StepRow]) -> None:
        for row in found:
            if isinstance(row, Row):
                self.rows.setdefault(task, []).append(row)
            else:
                self.steps.append(row)
        del self.missing[task]

    def table(self) -> str:
        cells = [row.cells() for rows in self.rows.values() for row in rows]
        parts = [step_tables(self.steps), markdown(COLUMNS, cells)]
        if self.missing:
            named = [f"{name} ({why})" if why else name for name, why in self.missing.items()]
            parts.append(f"not measured: {'; '.join(named)}\n")
        return "\n".join(part for part in parts if part)

    def write(self) -> None:
        results = [asdict(row) for row in self.steps]
        results += [asdict(row) for rows in self.rows.values() for row in rows]
        about = {**self.about, "not_measured": None}
        if self.missing:
            about["not_measured"] = f"{len(self.missing)} cases, named below the table"
        write(self.out, "gpu", about, results, self.table())


def report(tasks: Sequence[Task], out: Path, about: Mapping[str, Any], budget: Budget) -> bool:
    """Measure what fits; the files are written after each case. Whether nothing raised."""
    made = Report(out, about, tasks)
    made.write()
    keep = 0.0 if budget.left() == float("inf") else FOR_LAUNCHES * budget.left()
    failed = False
    for task in tasks:
        if not budget.fits(task.kind, keep):
            continue
        print(f"{task.name} ...", flush=True)
        try:
            with budget.spend(task.kind):
                found = task.run()
        except Exception as error:
            failed = True
            made.missing[task.name] = first_line(error)
            print(made.missing[task.name], flush=True)
        else:
            made.add(task.name, found)
        made.write()
    try:
        _count(tasks, made, budget)
    except Exception as error:
        failed = True
        print(f"launches are not counted: {first_line(error)}")
    made.write()
    print(f"{made.table()}\nwritten to {out}/gpu.json and gpu.md")
    return not failed


def _count(tasks: Sequence[Task], made: Report, budget: Budget) -> None:
    """Last of all: a profiler that has run once may slow down what the host does."""
    for task in tasks:
        if task.count is None or task.name not in made.rows:
            continue
        if not budget.fits("launches"):
            return
        with budget.spend("launches"):
            task.count(made.rows[task.name])
        if made.rows[task.name][0].launches.get("fused") is None:
            return  # the profiler cannot see this GPU
        made.write()


def gpu_versions() -> dict[str, Any]:
    """What else decides how fast a GPU is."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        driver = ""
    set_here = {name: value for name, value in os.environ.items() if name.startswith("FASTCAM_")}
    return {
        "cuda": torch.version.cuda,
        "driver": driver.strip().partition("\n")[0] or None,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "convolutions_of_steps_in_tf32": torch.backends.cudnn.allow_tf32,
        **set_here,
    }


def missing_gpu() -> str | None:
    """Why there is nothing to measure, or None."""
    if not torch.cuda.is_available():
        return "this machine has no CUDA device that torch can use; GPU timings need one"
    from fastcam.ops.library import cuda_missing

    return cuda_missing


def prepare_compile() -> None:
    """Each case is compiled once, and its backward may run again and again."""
    import torch._dynamo.config
    import torch._functorch.config

    torch._dynamo.config.recompile_limit = 1024
    torch._dynamo.config.accumulated_recompile_limit = 1024
    torch._functorch.config.donated_buffer = False


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each call, at most")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="end after so many seconds, with what matters most (default: measure everything); if "
        "a case does not end by then, the table has all others and the exit status is 1",
    )
    parser.add_argument(
        "--only", default="", help='cases whose name holds this, e.g. "alexnet N=8 " or "step"'
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder to write")
    options = parser.parse_args(arguments)
    budget = Budget(options.budget, GUESSES)
    why = missing_gpu()
    if why is not None:
        print(f"bench gpu: {why}", file=sys.stderr)
        return 2
    prepare_compile()
    device = torch.device("cuda")
    try:
        with budget.enforced(), claim(options.out):
            timer = EventTimer(device, options.runs)
            bandwidth = copy_bandwidth(timer, device)
            about = {**machine(), **gpu_versions(), "copy_GB_per_s": round(bandwidth / 1e9, 1)}
            tasks = plan(
                "cuda",
                timer,
                EventTimer(device, options.runs, seconds=0.4, warm_up=2),
                partial(wall_clock, synchronize=torch.cuda.synchronize),
                bandwidth,
                compiled=not options.no_compile,
            )
            chosen = [task for task in tasks if options.only in task.name]
            if not chosen:
                print(f"bench gpu: no case holds {options.only!r} in its name", file=sys.stderr)
                return 2
            return 0 if report(chosen, options.out, about, budget) else 1
    except OSError as error:
        print(f"bench gpu: {describe(error)}", file=sys.stderr)
        return 2
