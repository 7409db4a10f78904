"""Products that skip what a ReLU or a dropout has zeroed, against the dense ones."""

from __future__ import annotations

import pytest
import torch
from networks import grids, small_cnn
from test_native import run
from torch import Tensor

from fastcam import _head_products, _masked
from fastcam._ops import raw
from fastcam.losses import IoUCamLoss
from fastcam.tap import ActivationTap

ROWS = (0, 1, 64, 65, 300)
SHAPES = ((1, 1), (5, 7), (63, 16), (64, 128), (130, 129), (300, 300))  # units, columns
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13}


def case(rows: int, units: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """v, passed, weight, grad: a quarter passes, but none of row 0, and all of the last."""
    torch.manual_seed(rows + 1000 * units + width)
    passed = torch.rand(rows, units) < 0.25
    if rows:
        passed[0], passed[-1] = False, True
    v = torch.randn(rows, units, dtype=dtype) * passed
    v[:, ::3] = 0  # zero, and yet part of the pattern
    weight = torch.randn(units, width, dtype=dtype)
    return v, passed, weight, torch.randn(rows, width, dtype=dtype)


def results(v: Tensor, passed: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    return [
        _masked.product(v, passed, weight),
        _masked.dots(grad, passed, weight),
        _masked.outer(v, passed, grad),
        _masked.outer(v, passed, grad, add_to=weight.clone()),
    ]


def expected(v: Tensor, passed: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    v, weight, grad = v.double(), weight.double(), grad.double()
    outer = v.t() @ grad
    return [v @ weight, (grad @ weight.t()) * passed, outer, outer + weight]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", ROWS)
def test_products_are_the_dense_ones(rows, dtype):
    for units, width in SHAPES:
        inputs = case(rows, units, width, dtype)
        for got, want in zip(results(*inputs), expected(*inputs), strict=True):
            assert got.dtype == dtype and got.is_contiguous()
            # Rounding errors grow with the length of the longest sum.
            bound = TOLERANCE[dtype] * max(units, width, rows) ** 0.5
            torch.testing.assert_close(got.double(), want, rtol=bound, atol=bound)


def test_gradient_reaches_a_zero_that_passed():
    v, passed, weight, grad = case(64, 63, 16, torch.float64)
    assert (passed & (v == 0)).any()
    got = _masked.dots(grad, passed, weight)
    assert got[passed & (v == 0)].ne(0).all()
    assert not got[~passed].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_where_it_takes_part(bad):
    v, passed, weight, grad = case(70, 130, 129, torch.float32)
    v[3, passed[3].nonzero()[1]] = bad
    grad[5, 128] = bad
    weight[7, 128] = bad
    product, dots, outer, added = results(v, passed, weight, grad)
    rows = torch.zeros(70, dtype=torch.bool)
    rows[3] = True
    assert torch.equal(~product[:, :128].isfinite().all(1), rows)
    # v[r,7] W[7,128] is inf * v or, where v is 0, NaN.
    assert torch.equal(~product[:, 128].isfinite(), passed[:, 7] | rows)
    taking = passed.clone()
    taking[torch.arange(70) != 5] = False
    taking[:, 7] = passed[:, 7]
    assert torch.equal(~dots.isfinite(), taking)
    assert torch.equal(
        ~outer[:, :128].isfinite(),
        (v == bad).t().any(1, keepdim=True).expand(-1, 128) | v.isnan().t().any(1, keepdim=True),
    )
    assert torch.equal(~outer[:, 128].isfinite(), passed[5] | ~v.isfinite().all(0))
    assert torch.equal(~added[:, :128].isfinite(), ~outer[:, :128].isfinite())


def test_threads_change_no_bit():
    inputs = case(200, 300, 600, torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results(*inputs)
        for count in (2, 3):
            torch.set_num_threads(count)
            assert all(torch.equal(a, b) for a, b in zip(one, results(*inputs), strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_every_instruction_set(isa):
    code = (
        "import test_masked as t, torch\n"
        "for dtype in t.TOLERANCE:\n"
        "    for rows in (1, 65, 300): t.test_products_are_the_dense_ones(rows, dtype)\n"
        "t.test_threads_change_no_bit()\n"
    )
    done = run(code, FASTCAM_CPU_ISA=isa)
    assert done.returncode == 0, done.stderr


def test_raw_ops_refuse_what_they_cannot_read():
    v, passed, weight, grad = case(8, 16, 24, torch.float32)
    with pytest.raises(RuntimeError, match="agree"):
        raw._masked_product(v, passed[:, 1:], weight)
    with pytest.raises(RuntimeError, match="contiguous"):
        raw._masked_product(v, passed, torch.randn(24, 16).t())
    with pytest.raises(RuntimeError, match="float32 and float64"):
        raw._masked_dots(grad.half(), passed, weight.half())
    with pytest.raises(RuntimeError, match="dtype"):
        raw._masked_dots(grad.double(), passed, weight)


# ---- in the head ---------------------------------------------------------------------------------


@pytest.fixture
def everywhere(monkeypatch) -> list[str]:
    """Masked products whatever the sizes; which were called."""
    calls: list[str] = []
    monkeypatch.setattr(_masked, "FEWEST_ROWS", 0)
    monkeypatch.setattr(_masked, "FEWEST_WEIGHTS", 0)
    monkeypatch.setattr(_masked, "MOST", 1.0)
    for name in ("product", "dots", "outer"):
        function = getattr(_masked, name)

        def called(*args, _name=name, _function=function, **options):
            calls.append(_name)
            return _function(*args, **options)

        monkeypatch.setattr(_masked, name, called)
    return calls


def test_gradcheck_and_a_second_derivative(everywhere):
    multiplier = (torch.rand(5, 9) < 0.4).double() * 2
    v = torch.randn(5, 2, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)

    def product(v, weight):
        kept = v * multiplier.unsqueeze(1)
        return _head_products.product(kept, weight, multiplier=multiplier)

    torch.testing.assert_close(product(v, weight), (v * multiplier.unsqueeze(1)) @ weight)
    assert torch.autograd.gradcheck(product, (v, weight))
    assert set(everywhere) == {"product", "dots", "outer"}
    assert torch.autograd.gradgradcheck(product, (v, weight))


@pytest.mark.parametrize("head", ["closed", "mean_dropout"])
@pytest.mark.parametrize("targets", [[1], [0, 3]])
def test_loss_and_gradients_are_those_of_autograd(everywhere, head, targets):
    layers = list(small_cnn().double())
    hidden = [torch.nn.Linear(16, 20), torch.nn.ReLU(), torch.nn.Linear(20, 5)]
    net = torch.nn.Sequential(*layers[:-1], *hidden).double()
    if head == "mean_dropout":
        net[7].p = 0.0  # what it leaves out
    x = torch.randn(12, 3, 12, 12, dtype=torch.float64)
    found = []
    for name in (head, "autograd"):
        torch.manual_seed(0)
        everywhere.clear()
        with ActivationTap(net, "4", "5") as tap:
            logits = net(x)
            guide = IoUCamLoss(sharpness=2.0, head=name)(
                logits, tap, grids(12, len(targets), 6, 6), targets
            )
        total = logits.square().mean() + guide
        found.append([total, *torch.autograd.grad(total, list(net.parameters()))])
        assert bool(everywhere) == (name == head)
    torch.testing.assert_close(found[0], found[1])


def test_where_the_dense_product_stays():
    multiplier = (torch.rand(8, 1024) < 0.25).float()
    v = torch.randn(8, 1, 1024) * multiplier.unsqueeze(1)
    weight = torch.randn(1024, 256)
    passed = _masked.passed(v, weight, multiplier)
    assert passed is not None and torch.equal(passed, multiplier != 0)
    assert _masked.passed(v, weight, None) is None
    assert _masked.passed(v[:7], weight, multiplier[:7]) is None, "few rows"
    assert _masked.passed(v, weight[:, :255].contiguous(), multiplier) is None, "few weights"
    assert _masked.passed(v, torch.randn(256, 1024).t(), multiplier) is None, "not contiguous"
    assert _masked.passed(v.half(), weight.half(), multiplier) is None
    assert _masked.passed(v, weight.double(), multiplier) is None
    assert _masked.passed(v, weight, torch.ones(8, 1024)) is None, "too many pass"
