"""What only a GPU can show of the attention ops: streams, graphs, launches, memory."""

from __future__ import annotations

import pytest
import torch
from gpu import (
    assert_all_close,
    assert_keeps_no_memory,
    assert_near_exact,
    assert_repeatable,
    captured,
    on_a_late_stream,
    on_the_gpu,
)

from fastcam import functional as F
from fastcam import reference
from fastcam.ops.library import raw

pytestmark = pytest.mark.cuda

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def inputs(device, batch=4, dtype=torch.float32, attributes=40, channels=128, side=14, seed=0):
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn((batch, channels, side, side), generator=rng)
    logits = 3 * torch.randn((batch, attributes, channels, side, side), generator=rng)
    return tuple(t.to(device, dtype).requires_grad_() for t in (features, logits))


def step(leaves, pool, function=F.attend, n=4.0, beta=0.2):
    """Both outputs and both gradients."""
    z, l1 = function(*leaves, n, beta, pool=pool)
    loss = z.square().sum(dtype=torch.float64) + 0.01 * l1.sum()
    return (z, l1, *torch.autograd.grad(loss, leaves))


some_batches = pytest.mark.parametrize("batch", (1, 40))
pooled_or_not = pytest.mark.parametrize("pool", (False, True))


@some_batches
@pooled_or_not
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bitwise_repeatable(dtype, pool, batch, device):
    leaves = inputs(device, batch, dtype)
    assert_repeatable(lambda: step(leaves, pool), 10)


@pytest.mark.parametrize("side", (7, 13, 14, 28))
@pooled_or_not
@pytest.mark.parametrize("n", (0.5, 1.0, 4.0))
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_against_the_reference_at_network_sizes(dtype, n, pool, side, device):
    leaves = inputs(device, 3, dtype, side=side)
    exact = step([t.detach().double().requires_grad_() for t in leaves], pool, reference.attend, n)
    # What the loss makes of a rounded Z is not the op's: its gradient is given.
    z, l1 = F.attend(*leaves, n, 0.2, pool=pool)
    grads = torch.autograd.grad(
        (z, l1), leaves, ((2 * exact[0]).to(dtype).detach(), torch.full_like(l1, 0.01))
    )
    loose = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 4e-3}.get(dtype, 3e-2)
    assert_near_exact((z, l1, *grads), exact, loose)


@pooled_or_not
def test_side_stream(pool, device):
    """The kernels queue behind what their stream holds: inputs appear only after a long wait."""
    leaves = inputs(device)
    wanted = step(leaves, pool)
    late = tuple(torch.zeros_like(t).requires_grad_() for t in leaves)

    def prepare():
        with torch.no_grad():
            for one, other in zip(late, leaves, strict=True):
                one.copy_(other)

    assert_all_close(on_a_late_stream(prepare, lambda: step(late, pool), device), wanted)


@some_batches
@pooled_or_not
def test_cuda_graph(pool, batch, device):
    leaves = inputs(device, batch)
    mask = torch.rand(5000, device=device)

    def everything():
        many = raw._attend_forward(*(t.detach() for t in leaves), [1.0, 2.5], [0.0, 0.3], pool)
        return (*step(leaves, pool), *many, F.tone_curve(mask, 4.0, 0.2))

    graph, results = captured(everything, device)
    for seed in (1, 2):
        with torch.no_grad():
            for leaf, value in zip(leaves, inputs(device, batch, seed=seed), strict=True):
                leaf.copy_(value)
            mask.uniform_()
        graph.replay()
        torch.cuda.synchronize(device)
        assert_all_close(results, everything())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_second_device(device):
    with torch.cuda.device(0):  # not the tensors' device
        got = step(inputs("cuda:1"), True)
    assert all(t.device.index == 1 for t in got)
    assert_all_close([t.cpu() for t in got], [t.cpu() for t in step(inputs("cuda:0"), True)])


@some_batches
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_one_launch_of_each_op_and_no_copy(dtype, batch, device):
    """Only the counters of a forward whose blocks wait for each other may be cleared before."""
    features, logits = (t.detach() for t in inputs(device, batch, dtype))
    mask = torch.sigmoid(logits)
    calls = [
        lambda: raw._tone_curve(mask, 4.0, 0.2),
        lambda: raw._tone_curve_backward(mask, mask, 4.0, 0.2),
    ]
    for pool in (False, True):
        grad = torch.ones(logits.shape[:3] if pool else logits.shape, dtype=dtype, device=device)
        sums = torch.ones(logits.shape[:2], device=device)
        calls += [
            lambda pool=pool: raw._attend_forward(features, logits, [4.0] * 9, [0.2] * 9, pool),
            lambda pool=pool, grad=grad, sums=sums: raw._attend_backward(
                features, logits, grad, sums, 4.0, 0.2, pool, True, True
            ),
        ]
    for call in calls:
        done = on_the_gpu(call)
        assert [n for n in done if "Memset" not in n] == [n for n in done if "fastcam" in n]
        assert len([n for n in done if "fastcam" in n]) == 1 and len(done) <= 2


def test_conv1x1_never_holds_all_logits(device, monkeypatch):
    """Peak memory of forward and backward, beyond inputs and results, is that of some chunks."""
    from fastcam.ops import attend_conv

    chunk = 1 << 19
    monkeypatch.setitem(attend_conv._CHUNK_ELEMENTS, "cuda", chunk)
    features, _ = inputs(device, 16, attributes=1)
    weight = torch.randn(40 * 128, 128, device=device, requires_grad=True)
    bias = torch.randn(40 * 128, device=device, requires_grad=True)
    leaves = features, weight, bias

    def run():
        pooled, l1 = F.attend_conv1x1(*leaves, 4.0, 0.2)
        return torch.autograd.grad(pooled.square().sum() + l1.sum(), leaves)

    run()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    grads = run()
    torch.cuda.synchronize(device)
    results = sum(t.numel() * t.element_size() for t in grads)
    held = torch.cuda.max_memory_allocated(device) - before - results
    all_logits = 4 * 40 * features.numel()  # bytes of N·K·C·H·W in float32: 64 MB
    assert held < all_logits / 2
    assert held < 6 * 4 * chunk  # logits, their gradients, and what the products need beside


def test_no_memory_is_kept(device):
    leaves = inputs(device)
    assert_keeps_no_memory(lambda: step(leaves, True), 20, device)
