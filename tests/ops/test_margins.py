"""``margins``: values and gradients against the definition, at logits of any size."""

from __future__ import annotations

import pytest
import torch

from fastcam import functional as F
from fastcam import reference
from fastcam.ops.margins import slopes

GENERATOR = torch.Generator().manual_seed(0)


def logits(batch: int, classes: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(batch, classes, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize(("batch", "classes"), [(4, 2), (5, 7), (1, 40), (0, 3)])
def test_a_margin_is_the_logit_over_the_log_sum_exp_of_the_others(batch, classes):
    x = logits(batch, classes).requires_grad_()
    torch.testing.assert_close(F.margins(x), reference.margins(x))
    # the log-odds of the class
    p = x.softmax(1)
    torch.testing.assert_close(F.margins(x), (p / (1 - p)).log())
    (got,) = torch.autograd.grad(F.margins(x).sin().sum(), x)
    (wanted,) = torch.autograd.grad(reference.margins(x).sin().sum(), x)
    torch.testing.assert_close(got, wanted)


def test_two_by_hand():
    x = torch.tensor([[1.0, 4.0]])
    torch.testing.assert_close(F.margins(x), torch.tensor([[-3.0, 3.0]]))
    x = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    margins = F.margins(x)
    torch.testing.assert_close(margins, torch.full((1, 3), -torch.tensor(2.0).log().item()))
    (gradient,) = torch.autograd.grad(margins[0, 0], x)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -0.5, -0.5]]))


def test_both_derivatives():
    x = logits(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(F.margins, x)
    assert torch.autograd.gradgradcheck(F.margins, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_large_logits(dtype):
    x = torch.tensor(
        [[1e4, -1e4, 0.0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [0.0, 1.0, 30.0]], dtype=dtype
    ).requires_grad_()
    wanted = reference.margins(x.detach().double())
    got = F.margins(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=2e-7, atol=1e-6)
    # The largest of a row that is sure keeps all of its digits: softmax alone would say 1 - 1 = 0.
    torch.testing.assert_close(got[3, 2].double(), wanted[3, 2], rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(got.sum(), x, create_graph=True)
    reals = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(reference.margins(reals).sum(), reals)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(gradient.double(), expected, rtol=tolerance, atol=tolerance)
    (second,) = torch.autograd.grad(gradient.float().sin().sum(), x)
    assert second.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_slopes_are_as_precise_as_the_margins(dtype):
    x = logits(3, 5).to(dtype)
    index = torch.tensor([[0, 4], [1, 1], [2, 3]])
    got = slopes(x, index)
    assert got.dtype == F.margins(x).dtype
    torch.testing.assert_close(got, slopes(x.float(), index), rtol=0, atol=0)


def test_under_compile_and_vmap():
    x = logits(3, 5).float()
    compiled = torch.compile(F.margins, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), F.margins(x))
    torch.testing.assert_close(
        torch.func.vmap(lambda row: F.margins(row[None])[0])(x), F.margins(x)
    )


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.zeros(2, 1), ValueError, r"expected shape \[N,K\] with K >= 2 .* got \[2, 1\]"),
        (torch.zeros(3), ValueError, r"got \[3\]"),
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, "logits: expected dtype float32"),
        ([1.0, 2.0], TypeError, "logits: expected a torch.Tensor, got list"),
    ],
)
def test_wrong_logits(value, error, message):
    with pytest.raises(error, match=message):
        F.margins(value)
