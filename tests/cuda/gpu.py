"""What the tests on a GPU share (``--device cuda``; conftest.py skips them elsewhere)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType

from fastcam import functional as F

Results = Sequence[Tensor]


def loss_and_grads(sample: Any, function: Any = F.cam_iou_loss) -> Results:
    leaves = sample.leaves()
    loss = function(*leaves, sample.regions, **sample.options)
    return (loss, *torch.autograd.grad(loss, leaves))


def assert_all_close(got: Results, wanted: Results) -> None:
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def assert_near_exact(got: Results, exact: Results, loose: float) -> None:
    """Within ``loose`` of the largest value of each tensor."""
    for one, other in zip(got, exact, strict=True):
        size = other.detach().abs().max().clamp(min=1e-6)
        torch.testing.assert_close(
            one.detach().double() / size, other.detach() / size, rtol=0, atol=loose
        )


def assert_repeatable(call: Callable[[], Results], times: int) -> None:
    """The same bits each time."""
    first = call()
    for _ in range(times):
        for one, other in zip(call(), first, strict=True):
            assert torch.equal(one, other)


def assert_keeps_no_memory(call: Callable[[], Any], times: int, device: torch.device) -> None:
    call()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    for _ in range(times):
        call()
    torch.cuda.synchronize(device)
    assert torch.cuda.memory_allocated(device) == before


def on_a_late_stream(
    prepare: Callable[[], Any], call: Callable[[], Results], device: torch.device
) -> Results:
    """Both on a stream of their own, behind a long wait: what ``prepare`` writes appears late."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        prepare()
        got = call()
    torch.cuda.current_stream(device).wait_stream(side)
    return got


def captured(step: Callable[[], Any], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A step, warmed up three times, as a graph; and what its replays write their results to."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results


def check_loss_graph(
    sample: Any, fresh_samples: Sequence[Any], device: torch.device, replays: int = 3
) -> None:
    """A loss with its gradients as a graph, replayed on new values, several times each: tickets
    start from zero each time."""
    leaves = activations, gradients = sample.leaves()

    def step() -> Results:
        loss = F.cam_iou_loss(activations, gradients, sample.regions)
        return (loss, *torch.autograd.grad(loss, leaves))

    graph, results = captured(step, device)
    for fresh in fresh_samples:
        with torch.no_grad():
            for leaf, value in zip(leaves, (fresh.activations, fresh.gradients), strict=True):
                leaf.copy_(value)
            sample.regions.copy_(fresh.regions)
        for _ in range(replays):
            graph.replay()
        torch.cuda.synchronize(device)
        assert_all_close(results, loss_and_grads(fresh))


def on_the_gpu(call: Callable[[], Any]) -> list[str]:
    """Names of all that the GPU does for a call."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile() as profile:
        call()
        torch.cuda.synchronize()
    return [e.name for e in profile.events() if e.device_type == DeviceType.CUDA]


def assert_launches(
    call: Callable[[], Any], kernels: int, cleared: bool = False, cast: bool = False
) -> None:
    """So many kernels of the library; at most one memset if ``cleared``, and one kernel of torch's
    that changes a dtype if ``cast``."""
    done = on_the_gpu(call)
    others = [name for name in done if "fastcam" not in name]
    assert len(done) - len(others) == kernels, done
    memsets = sum("Memset" in name for name in others)
    assert memsets <= int(cleared) and len(others) - memsets <= int(cast), done
