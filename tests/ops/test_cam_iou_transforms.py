"""The ops under ``torch.func``, forward-mode and batched differentiation: right values, or words
for users."""

from __future__ import annotations

import pytest
import torch
from samples import SHAPES, make
from torch.autograd import forward_ad

from fastcam import functional as F
from fastcam import reference as R
from fastcam.losses.cam import IoUCamLoss

SAMPLE = make(SHAPES[2], dtype=torch.float64, sharpness=2.0)
A, D, S = SAMPLE.activations, SAMPLE.gradients, SAMPLE.regions
MASK = torch.rand(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FEATURES, LOGITS = torch.rand(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 5, 3, 4, 4).double()
WEIGHT, BIAS = torch.randn(15, 3).double(), torch.randn(15).double()

# Each: a function of one tensor, of fused ops or of the reference, and that tensor.
OPS = {
    "grad_cam": (lambda ops: lambda a: ops.grad_cam(a, D), A),
    "grad_cam, raw, of D": (lambda ops: lambda d: ops.grad_cam(A, d, False), D),
    "cam_iou_loss": (lambda ops: lambda a: ops.cam_iou_loss(a, D, S, sharpness=2.0), A),
    "cam_loss": (lambda ops: lambda a: ops.cam_loss(a, D, S, loss="outside", away=True), A),
    "cam_loss of D": (lambda ops: lambda d: ops.cam_loss(A, d, S, loss="ppce", eps=0.1), D),
    "cam_iou_loss of D": (
        lambda ops: (
            lambda d: ops.cam_iou_loss(
                A,
                d,
                S,
                cell_weights=torch.full((7, 7), 2.0),
                where=torch.tensor([True, False, True]),
                binarize="hard",
                reduction="none",
            )
        ),
        D,
    ),
    "tone_curve": (lambda ops: lambda m: ops.tone_curve(m, n=2.5, beta=0.5), MASK),
    "attend": (lambda ops: lambda f: ops.attend(f, LOGITS, n=2.0)[0], FEATURES),
    "attend, pooled": (lambda ops: lambda x: ops.attend(FEATURES, x, pool=True)[1], LOGITS),
    "attend_conv1x1": (lambda ops: lambda w: ops.attend_conv1x1(FEATURES, w, BIAS)[0], WEIGHT),
    "attend, several": (lambda ops: lambda f: ops.attend(f, LOGITS, n=[1.0, 2.0])[0], FEATURES),
}


def dual(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda y: f(y).sum())(x),
    "vmap": lambda f, x: torch.vmap(f)(torch.stack([x, x / 2])),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.ones_like(f(x)))[0],
    "vmap of grad": lambda f, x: torch.vmap(torch.func.grad(lambda y: f(y).sum()))(x[None]),
    "forward mode": dual,
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("op", OPS)
def test_transforms(op, transform):
    make_op, x = OPS[op]
    got, wanted = (TRANSFORMS[transform](make_op(ops), x) for ops in (F, R))
    torch.testing.assert_close(got, wanted)


def test_a_hessian_is_had_by_transforms():
    got, wanted = (
        torch.func.hessian(lambda d, ops=ops: ops.cam_iou_loss(A[:1, :2], d, S[:1, :1]))(
            D[:1, :1, :2, :1, :1]
        )
        for ops in (F, R)
    )
    torch.testing.assert_close(got, wanted)
    assert got.abs().sum() > 0


def test_values_are_looked_at_where_they_can_be():
    with pytest.raises(ValueError, match=r"regions: expected values in \[0, 1\]"):
        torch.func.grad(lambda a: F.cam_iou_loss(a, D, 255 * S))(A)
    with pytest.raises(ValueError, match="cell_weights: expected finite values"):
        torch.func.grad(lambda a: F.cam_iou_loss(a, D, S, cell_weights=-torch.ones(7, 7)))(A)
    over_regions = torch.vmap(lambda s: F.cam_iou_loss(A, D, s))
    torch.testing.assert_close(over_regions(S[None])[0], F.cam_iou_loss(A, D, S))


def test_a_cut_gradient_is_no_transform():
    with pytest.raises(ValueError, match="^max_pair_pull: expected None inside torch.func"):
        torch.func.grad(lambda a: F.cam_iou_loss(a, D, S, max_pair_pull=1.0))(A)


def test_batched_gradients():
    """What ``torch.autograd.functional.jacobian(vectorize=True)`` does, too."""
    a, d = SAMPLE.leaves()
    losses = F.cam_iou_loss(a, d, S, reduction="none")
    hot = torch.eye(6, dtype=torch.float64).view(6, 3, 2)
    got = torch.autograd.grad(losses, (a, d), hot, is_grads_batched=True, retain_graph=True)
    for row in range(6):
        wanted = torch.autograd.grad(losses, (a, d), hot[row], retain_graph=True)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one[row], other)
    # A graph would be lost on the way, and with it a part of the second gradient.
    with pytest.raises(RuntimeError, match="fused ops cannot be differentiated twice"):
        torch.autograd.grad(losses, (a, d), hot, is_grads_batched=True, create_graph=True)


def test_the_criterion_says_what_to_do_instead():
    def loss(a):
        return IoUCamLoss()(a.mean((2, 3)), a, S[:, 0], 1)

    words = "does not work inside torch.func transforms .* call fastcam.functional.cam_loss"
    with pytest.raises(ValueError, match=words):
        torch.func.grad(loss)(A)
    with pytest.raises(ValueError, match=words):
        dual(loss, A)
