"""What the ops refuse on a GPU: other devices, values out of range (``--device cuda``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from samples import SHAPES, make

from fastcam import functional as F
from fastcam.ops.library import raw

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("which", ("alpha", "cam", "peak", "grad"))
def test_backward_looks_at_the_device_of_each_tensor(which, device):
    sample = make(SHAPES[2], device=device)
    cam, alpha, peak = raw._cam_forward(sample.activations, sample.gradients, True)
    given = {"alpha": alpha, "cam": cam, "peak": peak, "grad": torch.ones_like(cam)}
    raw._cam_backward(sample.activations, *given.values(), True, True, True)
    given[which] = given[which].cpu()
    with pytest.raises(RuntimeError, match=f"{which} is on another device"):
        raw._cam_backward(sample.activations, *given.values(), True, True, True)


def test_attend_looks_at_the_device_of_each_tensor(device):
    features = torch.rand(2, 3, 4, 4, device=device)
    logits = torch.rand(2, 5, 3, 4, 4, device=device)
    grad, sums = torch.rand(2, 5, 3, device=device), torch.rand(2, 5, device=device)
    rest = (2.0, 0.0, True, True, True)
    raw._attend_backward(features, logits, grad, sums, *rest)
    with pytest.raises(RuntimeError, match="grad_out is on another device"):
        raw._attend_backward(features, logits, grad.cpu(), sums, *rest)
    with pytest.raises(RuntimeError, match="grad_mask_sum is on another device"):
        raw._attend_backward(features, logits, grad, sums.cpu(), *rest)
    with pytest.raises(RuntimeError, match="grad is on another device"):
        raw._tone_curve_backward(features, features.cpu(), 2.0, 0.0)


@pytest.mark.parametrize("need", ((True, True), (True, False), (False, True)))
def test_a_backward_without_targets_writes_zeros(need, device):
    activations = torch.rand(2, 3, 4, 4, device=device)
    alpha = torch.rand(2, 0, 3, device=device)
    cam, peak = torch.rand(2, 0, 4, 4, device=device), torch.rand(2, 0, device=device)
    grad_a, grad_d = raw._cam_backward(activations, alpha, cam, peak, cam, True, *need)
    assert not grad_a.any() and grad_d.numel() == 0
    assert grad_a.shape == (activations.shape if need[0] else (0,))


def test_nan_region_is_seen(device):
    sample = make(SHAPES[2], device=device)
    sample.regions[0, 0, 2, 2] = float("nan")
    assert F.valid_targets(sample.regions)[0, 0]
    loss = F.cam_iou_loss(sample.activations, sample.gradients, sample.regions, reduction="none")
    assert loss[0, 0].isnan() and loss[1:].isfinite().all()


PROBE = """
import sys, torch
from networks import grids, small_cnn
from fastcam import ActivationTap, IoUCamLoss
net, x = small_cnn().cuda(), torch.randn(4, 3, 12, 12, device="cuda")
regions, weights = grids(4, 6, 6).cuda(), torch.ones(6, 6, device="cuda")
where = torch.tensor([True, True, True, False], device="cuda")
regions[3] = float("nan")  # switched off
which, value = sys.argv[1], float(sys.argv[2])
(regions if which == "regions" else weights)[..., 2, 2] *= value
with ActivationTap(net, "4") as tap:
    loss = IoUCamLoss()(net(x), tap, regions, 1, cell_weights=weights, where=where)
torch.cuda.synchronize()
print("no error", loss.item())
"""


@pytest.mark.parametrize(
    ("which", "value", "words"),
    [
        ("regions", "1", "no error"),
        ("regions", "-255", "regions: expected values in [0, 1]"),
        ("regions", "nan", "regions: expected values in [0, 1]"),
        ("weights", "-1", "cell_weights: expected finite values >= 0"),
        ("weights", "inf", "cell_weights: expected finite values >= 0"),
    ],
)
def test_the_criterion_has_the_device_assert_what_is_in_range(which, value, words):
    """In a process of its own: an assertion on the device ends its context."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / 'support')!r})\n{PROBE}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, which, value], capture_output=True, text=True, check=False
    )
    assert words in done.stdout + done.stderr
    assert (done.returncode == 0) == (words == "no error")
