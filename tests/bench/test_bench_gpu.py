"""``python -m bench gpu`` without a GPU: order, budget, table, gates, rows of the step."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from bench import __main__ as bench
from bench import gpu, gpu_attend, gpu_cam
from bench.budget import Budget
from bench.cases import Case
from bench.gpu_timing import WallTimer, counted, wall_clock
from bench.report import first_line
from bench.timing import Timing
from bench.training_step import (
    COMPILED,
    DROPOUT,
    EAGER,
    EXACT,
    GRAPH,
    PLAIN,
    FineTuning,
    StepRow,
    captured,
    measure_step,
    step_tables,
)


def timing(milliseconds: float) -> Timing:
    return Timing(1e-3 * milliseconds * 0.9, 1e-3 * milliseconds, 1e-3 * milliseconds * 1.2, 10)


ABOUT = {"gpu": "fake"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# ---- the budget ----


def test_a_kind_is_expected_to_take_what_its_last_tasks_took():
    clock = Clock()
    budget = Budget(100.0, {"a": 30.0, "b": 5.0}, clock)
    assert budget.fits("a", keep=70.0) and not budget.fits("a", keep=71.0)
    for seconds in (20.0, 1.0, 2.0, 3.0):
        with budget.spend("a"):
            clock.now += seconds
        assert budget.expected("a") == pytest.approx(3.6 if seconds == 3 else 24.0)
    assert budget.expected("b") == 5.0
    assert budget.left() == 74.0

    def fails() -> None:
        with budget.spend("b"):
            clock.now += 70.0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert budget.expected("b") == 84.0 and not budget.fits("b") and budget.fits("a")


def test_no_budget_is_no_limit():
    budget = Budget(None, {"a": 1e9})
    assert budget.fits("a", keep=1e9)
    with budget.enforced():
        pass


HANGS = """
import sys, time
from pathlib import Path
from bench import gpu
from bench.budget import Budget
tasks = [
    gpu.Task("quick", "k", lambda: []),
    gpu.Task("hangs", "k", lambda: time.sleep(600)),
    gpu.Task("never", "k", lambda: []),
]
budget = Budget(3.0, {"k": 0.1, "launches": 0.1})
with budget.enforced():
    gpu.report(tasks, Path(sys.argv[1]), {"gpu": "fake"}, budget)
"""


def test_a_case_that_hangs_does_not_prevent_the_table(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(gpu.__file__).parents[1],
    )
    assert done.returncode == 1 and "hangs ..." in done.stdout
    assert "Timeout" in done.stderr and "never ..." not in done.stdout
    text = (tmp_path / "gpu.md").read_text()
    assert text.endswith("not measured: hangs; never\n")
    assert json.loads((tmp_path / "gpu.json").read_text())["machine"]["gpu"] == "fake"


# ---- the order ----


@pytest.fixture(scope="module")
def tasks() -> list[gpu.Task]:
    return gpu.plan("cpu", WallTimer(2), WallTimer(2), partial(wall_clock, synchronize=list), 1e9)


def test_gates_come_first(tasks):
    names = [task.name for task in tasks]
    assert len(set(names)) == len(names)
    assert names[:2] == ["step N=64 eager", "step N=256 eager"]
    kinds = [task.kind for task in tasks]
    for_float32 = names[2 : 2 + gpu_cam.GATES]
    assert all(name.endswith("float32 contiguous") for name in for_float32)
    shapes = list(dict.fromkeys(name.split("t50 ")[-1] for name in for_float32 if "t50" in name))
    assert [shape.split(" float32")[0] for shape in shapes] == [
        *("N=32 T=1", "N=256 T=1", "N=64 T=4", "N=64 T=16")
    ]
    order = [
        "cam_iou vgg16 N=64 T=16 float32 contiguous",
        "step N=64 CUDA graph",
        "step N=256 compiled trunk",
        "cam_iou resnet50 N=1 T=1 float32 contiguous",
        "cam_iou alexnet N=1024 T=1 float32 contiguous",
        "cam_iou alexnet N=64 T=4 bfloat16 contiguous",
        "cam_iou vgg16 N=64 T=16 bfloat16 channels_last",
        "grad_cam alexnet N=32 T=1 float32 contiguous",
        "attend attention N=8 K=40 float32",
        "step N=1024 compiled trunk",
        "grad_cam alexnet N=1 T=1 float32 contiguous",
    ]
    assert sorted(order, key=names.index) == order
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        **{"cam_iou": 54, "grad_cam": 54, "attend": len(gpu_attend.cases("cpu"))},
        **{f"step, {loop}": 4 for loop in (EAGER, COMPILED, GRAPH)},
    }
    assert set(kinds) | {"launches"} == set(gpu.GUESSES)


def test_nothing_is_compiled_if_told_so():
    plan = gpu.plan(
        "cpu", WallTimer(2), WallTimer(2), partial(wall_clock, synchronize=list), 1e9, False
    )
    assert not any(COMPILED in task.name for task in plan)


def test_the_command(tmp_path, monkeypatch, capsys):
    """All of it on the CPU, but for the timer."""
    plan = gpu.plan
    monkeypatch.setattr(gpu, "missing_gpu", lambda: None)
    monkeypatch.setattr(gpu, "EventTimer", lambda *_, **__: WallTimer(2))
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda *_: 1e9)
    monkeypatch.setattr(gpu, "plan", lambda _, *rest, **more: plan("cpu", *rest, **more))
    monkeypatch.setenv("FASTCAM_CAM_KERNELS", "parts")
    options = ["gpu", "--no-compile", "--out", str(tmp_path), "--only"]
    config = torch._dynamo.config
    limits = {"recompile_limit": 8, "accumulated_recompile_limit": 8}
    with config.patch(limits), torch._functorch.config.patch(donated_buffer=True):
        assert bench.main([*options, "cam_iou alexnet N=1 T=1 float32"]) == 0
        assert bench.main([*options, "no such case"]) == 2
        assert config.recompile_limit > 100 and not torch._functorch.config.donated_buffer
    assert "no case holds 'no such case'" in capsys.readouterr().err
    about = json.loads((tmp_path / "gpu.json").read_text())["machine"]
    assert {"gpu", "torch", "cuda", "date"} <= about.keys()
    assert about["FASTCAM_CAM_KERNELS"] == "parts" and about["copy_GB_per_s"] == 1.0
    table = (tmp_path / "gpu.md").read_text()
    assert "| cam_iou forward + backward | alexnet N=1" in table and "not measured" not in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]


# ---- rows, gates and the table ----


def test_a_row_and_its_gate():
    times = {"fused": timing(0.5), "eager": timing(1.5), "compiled": timing(0.75)}
    peaks = {"fused": 1 << 20, "eager": 3 << 20, "compiled": None}
    row = gpu.Row("cam_iou forward", "alexnet N=1", times, peaks, 0.5)
    assert row.cells() == [
        *("cam_iou forward", "alexnet N=1", "500.0 (450.0 to 600.0)", "50 %", "3.00", "1.50"),
        *("", "", "1.0, 3.0, ?"),
    ]
    both = gpu.Row("both", "alexnet N=1", times, {}, 0.5, 2.0)
    both.launches["fused"] = {"kernels": 1, "memsets": 1, "memcpys": 0}
    assert both.cells()[-3:] == ["≥ 2: **missed**", "1+1+0, ?, ?", ""]
    assert gpu.Row("both", "", times, {}, 0.5, 1.5).verdict() == "≥ 1.5: met"
    alone = {name: times[name] for name in ("fused", "eager")}
    assert gpu.Row("both", "", alone, {}, 0.5, 1.5).cells()[4:7] == ["3.00", "", ""]
    assert gpu_cam.bound(Case("alexnet", 64)) == 2.0 and gpu_cam.bound(Case("vgg16", 256)) == 1.5


class FakeTimer(WallTimer):
    """Seconds, and what is launched, by the call's result."""

    def __call__(self, run):
        return timing(run())

    def launches(self, run):
        return {"kernels": int(run()), "memsets": 1, "memcpys": 0}


def fake_calls(forward: float, backward: float) -> dict:
    made = {}
    for op, time in (("cam_iou forward", forward), ("cam_iou backward", backward)):
        made[op] = {"fused": partial(float, time), "compiled": partial(float, 3 * time)}
    return made


def test_the_sum_of_forward_and_backward_has_the_gate():
    moved = {"cam_iou forward": 3_000_000, "cam_iou backward": 1_000_000}
    make = partial(fake_calls, 4.0, 1.0)
    rows = gpu.measure("case", moved, make, FakeTimer(), 1e9, 2.0)
    assert [row.op for row in rows] == [*moved, "cam_iou forward + backward"]
    both = rows[-1]
    assert both.times["fused"].median == pytest.approx(5e-3) and both.ratio("compiled") == 3
    assert [row.bandwidth_share for row in rows] == pytest.approx([0.75, 1.0, 0.8])
    assert [row.verdict() for row in rows] == ["", "", "≥ 2: met"]
    gpu.count_launches(rows, make, FakeTimer())
    assert both.launches["fused"] == {"kernels": 5, "memsets": 2, "memcpys": 0}
    assert rows[0].launches["compiled"]["kernels"] == 12
    assert len(gpu.measure("case", moved, make, FakeTimer(), 1e9)) == 2


def test_launches_are_told_apart_by_their_names():
    names = ["Memset (Device)", "void fastcam::k<float>(int)", "Memcpy DtoD (Device -> Device)"]
    assert counted([*names, "triton_red_fused_0", "Context Sync"]) == {
        **{"kernels": 2, "memsets": 1, "memcpys": 1}
    }
    assert counted(["Context Sync", "Stream Wait Event"]) is None and counted([]) is None


def op_task(name: str, clock: Clock, seconds: float, counts: list[str]) -> gpu.Task:
    def run() -> list[gpu.Row]:
        clock.now += seconds
        return [gpu.Row("op", name, {"fused": timing(1)}, {}, 0.5)]

    def count(rows) -> None:
        clock.now += 2.0
        counts.append(name)
        rows[0].launches["fused"] = {"kernels": 7, "memsets": 0, "memcpys": 0}

    return gpu.Task(name, "long" if seconds > 5 else "short", run, count)


def test_what_does_not_fit_is_left_out_by_name(tmp_path, capsys):
    clock = Clock()
    budget = Budget(100.0, {"long": 40.0, "short": 1.0, "launches": 2.0}, clock)
    counts: list[str] = []

    def fails() -> list[gpu.Row]:
        clock.now += 1.0
        raise RuntimeError("out of | memory\nand more")

    tasks = [
        op_task("first", clock, 40.0, counts),
        gpu.Task("wrong", "short", fails),
        op_task("second", clock, 40.0, counts),
        op_task("third", clock, 40.0, counts),
        op_task("small", clock, 4.0, counts),
    ]
    # A tenth is kept for the launches; after 41 s, 48 are expected and 49 are left.
    assert not gpu.report(tasks, tmp_path, ABOUT, budget)
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("- gpu: fake\n- not_measured: 2 cases, named below the table\n\n| op |")
    assert text.endswith("not measured: wrong (RuntimeError: out of / memory); third\n")
    assert counts == ["first", "second", "small"] and text.count("| 7+0+0, ?, ? |") == 3
    assert clock.now - 100.0 == 91.0
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert [row["case"] for row in results] == counts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]
    assert "first ..." in capsys.readouterr().out


def test_counting_launches_ends_where_nothing_can_be_counted(tmp_path, capsys):
    def unseen(rows) -> None:
        rows[0].launches["fused"] = None

    def breaks(rows) -> None:
        raise RuntimeError("no CUPTI")

    for count, failed in ((unseen, False), (breaks, True)):
        budget, counts = Budget(None, {}), []
        done = op_task("done", Clock(), 1.0, counts)
        tasks = [
            gpu.Task("a", "short", done.run, count),
            gpu.Task("b", "short", done.run, done.count),
        ]
        budget = Budget(None, {"short": 1.0, "launches": 1.0})
        assert gpu.report(tasks, tmp_path, ABOUT, budget) != failed
        assert not counts
    assert "launches are not counted: RuntimeError: no CUPTI" in capsys.readouterr().out


def test_a_case_of_each_family_on_the_cpu(tmp_path):
    """The real calls, in the table."""
    case, timer = Case("alexnet", 1), WallTimer(2)
    functions = gpu_cam.candidates(compiled=False)
    attend = gpu_attend.AttendCase(2, attributes=3, channels=8, side=5)
    makes = {
        family: partial(gpu_cam.calls, family, functions[family], case)
        for family in gpu_cam.FAMILIES
    }
    makes["attend"] = partial(gpu_attend.calls, gpu_attend.candidates(compiled=False), attend)
    moved = {family: gpu_cam.least_bytes(family, case) for family in gpu_cam.FAMILIES}
    moved["attend"] = gpu_attend.least_bytes(attend)
    tasks = [
        gpu.Task(
            kind,
            kind,
            partial(gpu.measure, case.name, moved[kind], make, timer, 1e9),
            partial(gpu.count_launches, make=make, timer=timer),
        )
        for kind, make in makes.items()
    ]
    assert gpu.report(tasks, tmp_path, ABOUT, Budget(None, gpu.GUESSES))
    rows = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert [row["op"] for row in rows] == [
        *(f"{family} {way}" for family in gpu_cam.FAMILIES for way in ("forward", "backward")),
        *gpu_attend.OPS,
    ]
    assert all(row["times"]["fused"]["median"] > 0 < row["bandwidth_share"] for row in rows)
    assert "not measured" not in (tmp_path / "gpu.md").read_text()


def test_an_error_is_told_in_one_line():
    assert first_line(ValueError("\na | b\nc")) == "ValueError: a / b"
    assert len(first_line(ValueError(500 * "x"))) == 200


def test_only_what_bench_gpu_needs_is_imported():
    code = "import sys, bench.gpu; print(*sys.modules)"
    root = Path(gpu.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"typer", "rich", "matplotlib", "lightning", "torchvision", "pytest"}


# ---- the step ----


def test_the_host_clock_counts_calls_in_a_row_and_waits_once():
    clock, said = Clock(), []

    def step(name: str, host: float) -> None:
        clock.now += host
        said.append(name)

    def synchronize() -> None:
        clock.now += 0.5  # what the device still has to do
        said.append("wait")

    steps = {"a": partial(step, "a", 0.01), "b": partial(step, "b", 0.1)}
    times = wall_clock(steps, synchronize, seconds=2.0, rounds=2, clock=clock)
    assert times["a"].median == pytest.approx(0.01 + 0.5 / 11) and times["a"].runs == 2
    assert times["b"].median == pytest.approx(0.1 + 0.5 / 7)
    warm_up = 2 * (3 * ["a"] + ["wait"]) + 2 * (3 * ["b"] + ["wait"])
    assert said == warm_up + 2 * [*11 * ["a"], "wait", *7 * ["b"], "wait"]


def step_row(loss: str, wall: float, batch: int = 64, loop: str = EAGER) -> StepRow:
    return StepRow(f"AlexNet, {batch}", batch, loop, loss, timing(wall), timing(5), 1 << 30)


def test_step_table():
    rows = [
        step_row(PLAIN, 2, loop=GRAPH),
        StepRow("AlexNet, 64", 64, GRAPH, EXACT, error="RuntimeError: no capture"),
        step_row(PLAIN, 10),
        step_row(EXACT, 11.9),
        step_row(DROPOUT, 11.6),
        step_row(PLAIN, 10, 256),
        step_row(DROPOUT, 10.7, 256),
    ]
    text = step_tables(rows)
    assert "| eager: plain | 10.00 (9.00 to 12.00) | +0 % |  | 5.00 (4.50 to 6.00)" in text
    assert "| eager: guided, exact | 11.90 (10.71 to 14.28) | +19 % | ≤ +20 %: met |" in text
    assert (
        "| eager: guided, mean dropout | 11.60 (10.44 to 13.92) | +16 % | ≤ +15 %: **missed" in text
    )
    assert "| +7 % | ≤ +8 %: met |" in text and "| CUDA graph: plain | 2.00" in text
    assert "| CUDA graph: guided, exact | RuntimeError: no capture |  |  |  |  |  |" in text
    assert text.count("| --- |") > 2 and text.index("eager: plain") < text.index("CUDA graph")


class Once(WallTimer):
    def __call__(self, run):
        run()
        return timing(1)

    def clock(self, steps):
        return {name: self(run) for name, run in steps.items()}


def test_every_loss_is_measured():
    rows = measure_step(EAGER, 2, Once(), Once().clock, "cpu", size=96)
    assert [row.loss for row in rows] == [PLAIN, EXACT, DROPOUT, "guided, plain autograd"]
    assert all(row.error is None and row.wall == row.gpu == timing(1) for row in rows)
    assert [row.gate for row in rows] == 4 * [None]
    assert [step_row(loss, 1).gate for loss in (PLAIN, EXACT, DROPOUT)] == [None, 0.2, 0.15]
    assert step_row(EXACT, 1, loop=GRAPH).gate is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_step_that_cannot_be_captured_is_a_row():
    rows = measure_step(GRAPH, 2, Once(), Once().clock, "cpu", size=96)
    assert [row.loss for row in rows] == [PLAIN, EXACT, DROPOUT]
    assert all(row.error and row.wall is None for row in rows)
    assert rows[0].error in step_tables(rows)


@pytest.mark.parametrize("breaks", (False, True))
def test_a_step_is_captured_after_steps_that_make_the_optimizers_state(monkeypatch, breaks):
    done: list[str] = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            done.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self):
            done.append("replay")

    @contextlib.contextmanager
    def inside(name):
        done.append(name)
        try:
            yield
        finally:
            done.append(f"end of {name}")
            if breaks and name == "graph":
                raise RuntimeError("the capture was broken off")

    def step():
        if breaks and "graph" in done:
            raise ValueError("this waits for the device")
        done.append("step")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("here"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: inside(stream.name))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: inside("graph"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    before = ["side waits for here", "side", "step", "step", "step", "graph"]
    if breaks:
        with pytest.raises(ValueError, match="this waits for the device"):
            captured(step)
        assert done == [*before, "end of graph", "end of side"]
    else:
        captured(step)()
        after = ["step", "end of graph", "end of side", "here waits for side", "replay"]
        assert done == [*before, *after]


def test_a_compiled_trunk_computes_the_same(monkeypatch):
    backend = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", backend)
    tuning = FineTuning("alexnet", 2, size=96)

    def gradients():
        return [tuning.gradients(loss) for loss in (tuning.plain, tuning.fused)]

    wanted = gradients()
    tuning.compile_trunk()
    assert len(tuning.model.features.trunk) == 12
    for got, exact in zip(gradients(), wanted, strict=True):
        for one, other in zip(got, exact, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())
