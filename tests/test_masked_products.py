"""The products that skip what ReLU and dropout have zeroed, against dense float64 ones."""

from __future__ import annotations

import math

import pytest
import torch

from fastcam import _masked

# rows, units, columns: none, one, less than a vector, odd, several tiles of each kind
SHAPES = (
    *((0, 40, 30), (1, 1, 1), (3, 5, 2), (9, 70, 129), (64, 130, 200), (70, 64, 128)),
    *((200, 300, 67), (300, 65, 257)),
)
DTYPES = (torch.float32, torch.float64)
SHARES = (0.0, 0.1, 0.5, 1.0)


def make(rows, units, width, share, dtype=torch.float32):
    rng = torch.Generator().manual_seed(rows + units + width)
    passed = torch.rand(rows, units, generator=rng) < share
    v = torch.randn(rows, units, generator=rng, dtype=torch.float64) * passed
    grad = torch.randn(rows, width, generator=rng, dtype=torch.float64)
    weight = torch.randn(units, width, generator=rng, dtype=torch.float64)
    return v.to(dtype), passed, grad.to(dtype), weight.to(dtype)


def close(got, wanted, terms):
    """Within a few roundings of sums of that many terms."""
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-14}[got.dtype] * max(1, terms) ** 0.5
    torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_dense_products(shape, share, dtype):
    rows, units, width = shape
    v, passed, grad, weight = make(*shape, share, dtype)
    v64, grad64, weight64 = v.double(), grad.double(), weight.double()
    close(_masked.product(v, passed, weight), v64 @ weight64, units)
    close(_masked.dots(grad, passed, weight), (grad64 @ weight64.t()) * passed, width)
    close(_masked.outer(v, passed, grad), v64.t() @ grad64, rows)
    there = torch.randn_like(weight)
    wanted = there.double() + v64.t() @ grad64
    assert _masked.outer(v, passed, grad, add_to=there) is there
    close(there, wanted, rows)


def test_what_passed_may_be_zero():
    """A value of zero that passed has a gradient; one that did not pass has none."""
    v, passed, grad, weight = make(8, 20, 10, 0.5)
    v.zero_()
    got = _masked.dots(grad, passed, weight)
    close(got, (grad.double() @ weight.double().t()) * passed, 10)
    assert got[passed].ne(0).all() and got[~passed].eq(0).all()


@pytest.mark.parametrize("value", (math.nan, math.inf))
def test_what_is_not_finite_stays_with_what_it_meets(value):
    v, passed, grad, weight = make(6, 12, 33, 0.5)
    weight[3] = value
    got = _masked.product(v, passed, weight)
    assert (got.isfinite().all(1) == ~passed[:, 3]).all()
    weight[3] = 1.0
    grad[2] = value
    outer = _masked.outer(v, passed, grad)
    assert (outer.isfinite().all(1) == ~passed[2]).all()
    dots = _masked.dots(grad, passed, weight)
    assert (dots.isfinite().all(0) == ~passed[2]).all()


def test_threads_change_no_bit():
    v, passed, grad, weight = make(130, 300, 700, 0.3)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                (
                    _masked.product(v, passed, weight),
                    _masked.dots(grad, passed, weight),
                    _masked.outer(v, passed, grad),
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_any_layout_of_the_rows():
    v, passed, grad, weight = make(16, 48, 40, 0.4)
    turned = v.t().contiguous().t(), passed.t().contiguous().t(), grad.t().contiguous().t()
    assert not any(tensor.is_contiguous() for tensor in turned)
    assert torch.equal(
        _masked.product(turned[0], turned[1], weight), _masked.product(v, passed, weight)
    )
    assert torch.equal(_masked.outer(*turned), _masked.outer(v, passed, grad))
    assert torch.equal(
        _masked.dots(turned[2], turned[1], weight), _masked.dots(grad, passed, weight)
    )


def test_shapes_that_do_not_agree_are_refused():
    v, passed, grad, weight = make(8, 20, 10, 0.5)
    for call in (
        lambda: _masked.product(v[:, :-1], passed, weight),
        lambda: _masked.product(v, passed[:-1], weight),
        lambda: _masked.dots(grad, passed, weight[:-1]),
        lambda: _masked.outer(v, passed, grad, add_to=weight[:, :-1].contiguous()),
        lambda: _masked.product(v.half(), passed, weight.half()),
    ):
        with pytest.raises(RuntimeError, match="masked products"):
            call()


def chosen(share=0.2, n=16, units=512, width=1024, **changes):
    v = torch.randn(n, 2, units)
    weight = torch.randn(units, width)
    multiplier = (torch.rand(n, units) < share).float() * 2
    given = {"v": v, "weight": weight, "multiplier": multiplier} | changes
    return _masked.passed(**given)


def test_when_they_are_taken():
    torch.manual_seed(0)
    taken = chosen()
    assert taken is not None and taken.shape == (32, 512) and taken.dtype == torch.bool
    assert torch.equal(taken[0], taken[1]), "the targets of an image share their pattern"
    assert chosen(multiplier=None) is None
    assert chosen(share=0.9) is None, "a dense product takes less time"
    assert chosen(n=2) is None and chosen(units=32, width=64) is None
    assert chosen(weight=torch.randn(1024, 512).t()) is None
    assert chosen(v=torch.randn(16, 2, 512).bfloat16()) is None


@pytest.mark.parametrize("targets", (1, 3))
@pytest.mark.parametrize("mean_dropout", (False, True))
def test_the_loss_is_the_same_with_and_without(targets, mean_dropout, monkeypatch):
    """Every gradient of a guided step, the head's weights included, in train mode."""
    from torch import nn

    import fastcam

    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(256, 1024), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 5)),
    ).double()
    images = torch.randn(12, 3, 12, 12, dtype=torch.float64)
    regions = torch.rand(12, targets, 12, 12, dtype=torch.float64)
    criterion = fastcam.IoUCamLoss(head="mean_dropout" if mean_dropout else "closed")
    calls = []
    for name in ("product", "dots", "outer"):
        kernel = getattr(_masked, name)
        monkeypatch.setattr(
            _masked, name, lambda *a, k=kernel, n=name, **b: (calls.append(n), k(*a, **b))[1]
        )

    def gradients():
        torch.manual_seed(2)
        with fastcam.ActivationTap(model, "1") as tap:
            logits = model(images)
            loss = criterion(logits, tap, regions, targets=list(range(targets)))
        (loss + logits.square().mean()).backward()
        grads = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        return grads

    masked = gradients()
    assert set(calls) == {"product", "dots", "outer"}
    monkeypatch.setattr(_masked, "MOST", -1.0)
    calls.clear()
    dense = gradients()
    assert not calls
    for got, wanted in zip(masked, dense, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-13)
