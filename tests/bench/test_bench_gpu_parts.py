"""``python -m bench gpu`` and ``bench resources``: all that can be tested without a GPU."""

from __future__ import annotations

import time
import types
from functools import partial

import pytest
import torch
from torch.autograd import DeviceType

from bench import __main__ as bench
from bench import cuda_resources, gpu, gpu_attend, gpu_cam, report
from bench.cases import Case
from bench.gpu_timing import EventTimer, WallTimer, copy_bandwidth, wall_clock
from bench.timing import Timing
from bench.training_step import EAGER, GRAPH, FineTuning, measure_step


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_refuses_without_a_gpu(capsys, tmp_path):
    assert bench.main(["gpu", "--out", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_least_bytes_of_alexnet():
    """By hand: A 256·169, D 256·36, S, grad_map and map 169, alpha 256, loss, peak and status."""
    forward, backward = gpu_cam.least_bytes("cam_iou", Case("alexnet", 2)).values()
    assert forward == 2 * (4 * (256 * 169 + 256 * 36 + 169 + 169 + 256 + 256 + 1) + 1)
    assert backward == 2 * (4 * (256 * 169 + 169 + 256 + 256 + 256 + 1) + 1)  # dA is written
    cam, cam_backward = gpu_cam.least_bytes("grad_cam", Case("alexnet", 2)).values()
    assert cam == 2 * 4 * (256 * 169 + 256 * 36 + 169 + 256 + 1)
    assert cam_backward == 2 * 4 * (2 * 256 * 169 + 169 + 169 + 256 + 256 + 1)

    def forward_of(case):
        return gpu_cam.least_bytes("cam_iou", case)["cam_iou forward"]

    half = forward_of(Case("alexnet", 2, dtype=torch.bfloat16))
    assert forward - half == 2 * 2 * (256 * 169 + 256 * 36)
    several = forward_of(Case("alexnet", 1, targets=3))
    assert several == 4 * 256 * 169 + 3 * (4 * (256 * 36 + 169 + 169 + 256 + 256 + 1) + 1)


def test_guided_steps_compute_the_same_loss_fused_and_eager():
    tuning = FineTuning("alexnet", 2, size=96)
    losses = {}
    for name, loss in (("plain", tuning.plain), ("fused", tuning.fused), ("eager", tuning.eager)):
        torch.manual_seed(1)  # the same dropout
        losses[name] = loss()
    torch.testing.assert_close(losses["fused"], losses["eager"], rtol=1e-4, atol=1e-4)
    assert losses["fused"] - losses["plain"] > 0.1
    for one, other in zip(
        tuning.gradients(tuning.fused), tuning.gradients(tuning.eager), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


def test_a_step_moves_the_weights():
    tuning = FineTuning("alexnet", 2, size=96)
    before = [parameter.detach().clone() for parameter in tuning.model.parameters()]
    tuning.step(tuning.fused)()
    after = tuning.model.parameters()
    assert all(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_copy_bandwidth_counts_both_directions():
    class OneSecond(WallTimer):
        def __call__(self, run):
            run()
            return Timing(1.0, 1.0, 1.0, 2)

    assert copy_bandwidth(OneSecond(), "cpu", megabytes=3) == 6 * 2**20


def test_a_wrong_candidate_is_not_timed():
    good = gpu_cam.candidates(compiled=False)["cam_iou"]
    bad = {**good, "fused": lambda *inputs: 1.01 * good["fused"](*inputs)}
    gpu_cam.calls("cam_iou", good, Case("alexnet", 1))
    with pytest.raises(AssertionError, match="alexnet N=1 .*, fused: "):
        gpu_cam.calls("cam_iou", bad, Case("alexnet", 1))


@pytest.mark.parametrize("family", gpu_cam.FAMILIES)
def test_every_call_computes_what_it_says(family):
    """Forward values, and both gradients, of fused and eager alike."""
    case, functions = Case("alexnet", 2, targets=2), gpu_cam.candidates(compiled=False)
    found = gpu_cam.calls(family, functions[family], case)
    assert list(found) == [f"{family} forward", f"{family} backward"]
    assert list(found) == list(gpu_cam.least_bytes(family, case))
    for op, by_name in found.items():
        assert set(by_name) == {"fused", "eager"}
        got, wanted = by_name["fused"](), by_name["eager"]()
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)
        assert len(got) == 2 if op.endswith("backward") else got.requires_grad


# ---- the attention ops ---


def small_attend(dtype: torch.dtype = torch.float32) -> gpu_attend.AttendCase:
    return gpu_attend.AttendCase(2, dtype, attributes=3, channels=8, side=5)


def test_least_bytes_of_attend():
    """By hand: F 8·25, L and Z 3·8·25, P 3·8, l1 3, weight 24·8 and bias 24 (once for all)."""
    moved = gpu_attend.least_bytes(small_attend())
    f, logits, pooled, l1, weight = 2 * 200, 2 * 600, 2 * 24, 2 * 3, 24 * 8 + 24
    assert list(moved.values()) == [
        4 * values
        for values in (
            logits + logits,
            3 * logits,
            f + logits + logits + l1,
            f + f + 3 * logits + l1,
            f + logits + pooled + l1,
            2 * f + 2 * logits + pooled + l1,
            f + weight + pooled + l1,
            2 * f + 2 * weight + pooled + l1,
        )
    ]
    half = gpu_attend.least_bytes(small_attend(torch.bfloat16))
    assert half["attend forward"] == 2 * (f + logits + logits) + 4 * l1


def test_every_attend_call_computes_what_it_says():
    found = gpu_attend.calls(gpu_attend.candidates(compiled=False), small_attend())
    assert tuple(found) == gpu_attend.OPS
    for op, by_name in found.items():
        assert set(by_name) == {"fused", "eager"}
        got, wanted = by_name["fused"](), by_name["eager"]()
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        if op.endswith("backward"):
            assert len(got) == {"tone_curve": 1, "attend": 2, "attend_conv1x1": 3}[op.split()[0]]


@pytest.mark.parametrize("wrong", ("tone_curve", "attend", "attend_conv1x1"))
def test_a_wrong_attend_is_not_timed(wrong):
    good = gpu_attend.candidates(compiled=False)
    right = good["fused"][wrong]

    def changed(*inputs, **options):
        made = right(*inputs, **options)
        return 1.05 * made if wrong == "tone_curve" else (1.05 * made[0], made[1])

    bad = {**good, "fused": {**good["fused"], wrong: changed}}
    with pytest.raises(AssertionError, match=f"attention N=2 .*, {wrong} forward, fused: "):
        gpu_attend.calls(bad, small_attend())


def test_attend_cases_have_the_networks_size():
    all_cases = gpu_attend.cases("cpu")
    assert len({case.name for case in all_cases}) == len(all_cases)
    features, logits, weight, bias = all_cases[0].inputs()
    n = all_cases[0].batch
    assert logits.shape == (n, 40, 128, 14, 14) and features.shape == (n, 128, 14, 14)
    assert weight.shape == (40 * 128, 128) and bias.shape == (40 * 128,)


class FakeGpu:
    """A queue of a GPU whose clock is told what each call costs; records what is queued."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0  # on the GPU's clock
        self.queued: list[str] = []
        fake = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                fake.queued.append("event")
                self.at = fake.seconds

            def elapsed_time(self, end: Event) -> float:
                return 1e3 * (end.at - self.at)

        properties = types.SimpleNamespace(L2_cache_size=50 << 20)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.run("wait", cycles / 2e9))

    def run(self, what: str, seconds: float) -> None:
        self.queued.append(what)
        self.seconds += seconds


def test_event_timer_times_the_call_alone(monkeypatch):
    """Flush and wait do not lie between the events, and the wait outlasts the queueing."""
    fake = FakeGpu(monkeypatch)
    timer = EventTimer(torch.device("cpu"), runs=4, warm_up=1)
    assert timer._flush.nbytes == 2 * (50 << 20)
    timer._flush = types.SimpleNamespace(sum=lambda: fake.run("flush", 5e-3))

    def call() -> None:
        time.sleep(2e-3)  # in Python
        fake.run("call", 1e-3)

    fake.queued.clear()
    begin = fake.seconds
    timing = timer(call)
    assert (timing.p20, timing.median, timing.p80) == pytest.approx((1e-3, 1e-3, 1e-3))
    assert timing.runs == 4
    assert fake.queued[-20:] == ["flush", "wait", "event", "call", "event"] * 4
    warm_up = fake.queued[:-20]
    assert set(warm_up) == {"call"}
    waited = fake.seconds - begin - len(warm_up) * 1e-3 - 4 * (5e-3 + 1e-3)
    assert waited / 4 > 2e-3


def test_event_timer_runs_a_long_call_less_often(monkeypatch):
    FakeGpu(monkeypatch)
    timer = EventTimer(torch.device("cpu"), runs=40, seconds=0.06, warm_up=1)
    timer._flush = types.SimpleNamespace(sum=lambda: None)
    assert timer(lambda: None).runs == 40
    assert 10 <= timer(lambda: time.sleep(1e-3)).runs <= 20  # 2 ms to wait and 1 or more to run
    assert timer(lambda: time.sleep(5e-3)).runs == 10


def test_launches_are_what_the_gpu_does_in_one_call(monkeypatch):
    fake = FakeGpu(monkeypatch)

    class Profile:
        def __init__(self, activities) -> None:
            assert activities == [torch.profiler.ProfilerActivity.CUDA]

        def __enter__(self):
            fake.queued.clear()
            return self

        def __exit__(self, *_) -> None: ...

        def events(self):
            done = [types.SimpleNamespace(name=n, device_type=DeviceType.CUDA) for n in fake.queued]
            return [*done, types.SimpleNamespace(name="aten::mul", device_type=DeviceType.CPU)]

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    timer = EventTimer(torch.device("cpu"), warm_up=1)
    counts = timer.launches(lambda: fake.queued.extend(["k<float>", "Memset (Device)"]))
    assert counts == {"kernels": 1, "memsets": 1, "memcpys": 0}
    assert timer.launches(lambda: None) is None


@pytest.mark.cuda
def test_measuring_on_a_gpu(device):
    timer, clock = EventTimer(device, 12), partial(wall_clock, synchronize=torch.cuda.synchronize)
    case = Case("alexnet", 2, device="cuda")
    make = partial(gpu_cam.calls, "cam_iou", gpu_cam.candidates(False)["cam_iou"], case)
    rows = gpu.measure(case.name, gpu_cam.least_bytes("cam_iou", case), make, timer, 1e12, 2.0)
    for loop in (EAGER, GRAPH):
        steps = measure_step(loop, 4, timer, clock, "cuda", size=96)
        assert [step.error for step in steps] == len(steps) * [None]
        assert all(step.wall.median > 0 < step.gpu.median for step in steps)
    gpu.count_launches(rows, make, timer)
    for row in rows:
        assert 1e-6 < row.times["fused"].median < 1e-2
        assert 1 <= row.launches["fused"]["kernels"] < row.launches["eager"]["kernels"]


RESOURCES = """
Fatbin elf code:
================
arch = sm_90
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:28 CONSTANT[4]:224
 Function _ZN7fastcam1kIfLi1EEEvv:
  REG:76 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:712 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _ZN7fastcam1kIdLi4EEEvv:
  REG:117 STACK:16 SHARED:1024 LOCAL:8 CONSTANT[0]:712 TEXTURE:0 SURFACE:0 SAMPLER:0
"""


def test_resources_are_read_from_cuobjdump():
    one, four = cuda_resources.parse_resources(RESOURCES)
    assert (one.arch, one.registers, one.stack, one.local) == ("sm_90", 76, 0, 0)
    assert (four.registers, four.stack, four.local) == (117, 16, 8)
    assert (one.budget, four.budget) == (80, 168)
    counts = {"wide loads": 5, "local": 3, "float atomics": 0}
    text = cuda_resources.table(
        [one, four], {("sm_90", one.symbol): counts, ("sm_90", four.symbol): counts}
    )
    assert "sm_90" in text.splitlines()[0] and "| 117 | 168 | 16 | 8 | 3 | 5 | 0 |" in text


def test_sass_is_counted_by_kernel():
    text = """
arch = sm_80
\t\tFunction : first
        /*0270*/   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0280*/   LDG.E R4, desc[UR4][R2.64] ;
        /*0290*/   STL.64 [R1], R2 ;
        /*02a0*/   ATOMG.E.ADD.STRONG.GPU PT, R2, desc[UR4][R2.64], R5 ;
\t\tFunction : second
        /*0280*/   REDG.E.ADD.F32.FTZ.RN.STRONG.GPU desc[UR4][R2.64], R5 ;
        /*0290*/   RED.E.ADD.F64.RN.STRONG.GPU [R2.64], R4 ;
        /*02a0*/   ATOMG.E.ADD.BF16_V2.RN.STRONG.GPU PT, R2, desc[UR4][R2.64], R5 ;
"""
    none = dict.fromkeys(cuda_resources.SASS, 0)
    counts = cuda_resources.parse_sass(text)
    assert counts["sm_80", "first"] == none | {"wide loads": 1, "local": 1}
    assert counts["sm_80", "second"] == none | {"float atomics": 3}


def test_broken_rules_are_told():
    def told(name, registers=80, stack=0, local=0, arch="sm_90", **found):
        kernel = cuda_resources.Kernel(
            name, f"void fastcam::{name}(int)", arch, registers, stack, local
        )
        counts = dict.fromkeys(cuda_resources.SASS, 0)
        counts |= {"local": found.get("accesses", 0), "float atomics": found.get("atomics", 0)}
        return cuda_resources.broken_rules([kernel], {(arch, name): counts})

    name = "attend_forward_kernel<float, true>"
    assert told(name) == []
    assert told(name, registers=81) == [f"sm_90 {name}: 81 registers, more than 80"]
    for bad in (
        told(name, stack=8),
        told(name, local=8),
        told(name, accesses=1),
        told(name, atomics=1),
        told("attend_forward_kernel<fastcam::Half, true>", registers=81),
        told("cam_backward_kernel<float, 4>", registers=169),
    ):
        assert len(bad) == 1
    # Their launch bounds say more, and those of attend in double.
    assert told("cam_backward_kernel<float, 1>", registers=96) == []
    assert told("attend_forward_kernel<double, true, false, 7>", registers=200) == []
    assert told("cam_loss_backward_kernel<double, 16>", registers=174) == []
    newer = "attend_forward_kernel<fastcam::Half, true, true, 7>"
    assert told(newer, registers=115, arch="sm_100") == [] != told(newer, registers=115)
    assert len(told(newer, registers=129, arch="sm_120")) == 1


def test_short_names_leave_out_the_losses():
    name = "cam_loss_pass_kernel<float, 1, fastcam::AllLosses<float> >"
    kernel = cuda_resources.Kernel(name, name, "sm_90", 1, 0, 0)
    assert kernel.short_name == "cam_loss_pass_kernel<float, 1>"


def test_a_table_is_replaced_between_its_marks(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb\n")
    report.replace_between(file, "t", "new\n")
    assert file.read_text() == "a\n<!-- t: begin -->\nnew\n<!-- t: end -->\nb\n"
    with pytest.raises(ValueError, match="has no <!-- other: begin -->"):
        report.replace_between(file, "other", "")
