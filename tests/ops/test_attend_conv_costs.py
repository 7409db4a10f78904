"""What ``F.attend_conv1x1`` holds."""

from __future__ import annotations

import pytest
import torch

from bench.memory import allocations, stored
from fastcam import functional as F
from fastcam.ops import attend_conv

CURVE = 4.0, 0.2


@pytest.fixture(autouse=True)
def one_thread():
    """A second one on a busy machine times the waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def held_beyond_the_result(call) -> int:
    """Most bytes alive at once during the call, less those of what it returns."""
    call()
    result, taken = allocations(call)
    return taken.peak - stored(result)


def leaves(n, k, c, h, w):
    rng = torch.Generator().manual_seed(0)
    features = torch.randn((n, c, h, w), generator=rng)
    weight = torch.randn((k * c, c), generator=rng) / c**0.5
    bias = torch.randn((k * c,), generator=rng)
    return tuple(t.requires_grad_() for t in (features, weight, bias))


def forward_and_backward(function, inputs):
    with torch.no_grad():
        pooled, l1 = function(*inputs)
    grads = torch.ones_like(pooled), torch.full_like(l1, 1e-3)
    return lambda: torch.autograd.grad(function(*inputs), inputs, grads)


def conv(features, weight, bias):
    return F.attend_conv1x1(features, weight, bias, *CURVE)


def test_conv1x1_holds_no_more_for_more_attributes():
    """Forward, and forward and backward; K = 4 is a chunk and more already."""
    shape = 32, 14, 14
    most = {}
    for k in (4, 40):
        inputs = leaves(32, k, *shape)
        with torch.no_grad():
            forward = held_beyond_the_result(lambda: conv(*inputs))  # noqa: B023
        both = held_beyond_the_result(forward_and_backward(conv, inputs))
        # What forward returns and backward still needs is the output, not a part of the passes.
        both -= 4 * (32 * k * 32 + 32 * k)
        most[k] = forward, both
    for few, many in zip(most[4], most[40], strict=True):
        assert many <= 1.1 * few, most
    logits = 4 * 32 * 40 * 32 * 14 * 14
    assert most[40][1] < 0.21 * logits, most


@pytest.mark.parametrize("device", ("cpu", "cuda"))
@pytest.mark.parametrize(
    ("batch", "attributes", "channels", "side"),
    [
        (8, 40, 128, 14),
        (8, 4, 128, 14),
        (1, 40, 128, 14),
        (32, 40, 128, 8),
        (3, 7, 5, 3),
        (2, 3, 2048, 60),
    ],
)
def test_chunks_cover_everything_once_within_the_limit(
    device, batch, attributes, channels, side, monkeypatch
):
    """The arithmetic alone: shapes on no device, the limit of each."""
    limit = attend_conv._CHUNK_ELEMENTS[device]
    monkeypatch.setitem(attend_conv._CHUNK_ELEMENTS, "meta", limit)
    features = torch.empty(batch, channels, side, side, device="meta")
    weight = torch.empty(attributes * channels, channels, device="meta")
    seen = torch.zeros(batch, attributes, dtype=torch.int64)
    sizes = []
    for samples, some in attend_conv._chunks(features, weight):
        seen[samples, some] += 1
        sizes.append(seen[samples, some].numel() * channels * side * side)
    assert (seen == 1).all()
    one = channels * side * side
    assert max(sizes) == sizes[0] <= max(limit, one)
    # Half the limit at least, where there is so much: few chunks, and memory the same for any K.
    assert sizes[0] >= min(limit // 2, batch * attributes * one)


@pytest.mark.parametrize(("device", "batch"), [("cpu", 32), ("cuda", 256)])
def test_chunks_of_more_attributes_are_no_larger(device, batch, monkeypatch):
    """At the size of the paper's network, and a batch that is large for the device."""
    monkeypatch.setitem(attend_conv._CHUNK_ELEMENTS, "meta", attend_conv._CHUNK_ELEMENTS[device])
    sizes = {}
    for k in (4, 40):
        features = torch.empty(batch, 128, 14, 14, device="meta")
        weight = torch.empty(k * 128, 128, device="meta")
        samples, some = next(iter(attend_conv._chunks(features, weight)))
        sizes[k] = (samples.stop - samples.start) * (some.stop - some.start)
    assert sizes[40] <= 1.1 * sizes[4]
