"""A device without kernels, which a CPU stands for here: plain PyTorch runs in their place."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import assert_same_gradients, gradients_of, grids, small_cnn

from fastcam import ActivationTap, Balance, IoUCamLoss, reference
from fastcam import functional as F
from fastcam.ops import checks, library
from fastcam.ops.cam_loss import LOSSES

A = torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
D = torch.randn(3, 2, 4, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
S = grids(3, 2, 5, 6)
MASK_LOGITS = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64)
WEIGHT, BIAS = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, dtype=torch.float64)

CALLS = {
    "grad_cam": lambda: F.grad_cam(A, D),
    "iou": lambda: F.cam_iou_loss(A, D, S, sharpness=3.0, max_pair_pull=0.5, reduction="none"),
    "tone_curve": lambda: F.tone_curve(S, 2.0, 0.5),
    "attend": lambda: F.attend(A, MASK_LOGITS, 2.0, 0.5, pool=True)[0],
    "attend, several": lambda: F.attend(A, MASK_LOGITS, [1.0, 2.0])[0],
    "attend_conv1x1": lambda: F.attend_conv1x1(A, WEIGHT, BIAS, 2.0)[0],
    **{name: lambda name=name: F.cam_loss(A, D, S, loss=name) for name in LOSSES},
}


class NoKernels:
    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"{name} was called")


@pytest.fixture
def without_kernels(monkeypatch):
    monkeypatch.setattr(checks, "_KERNELS", {"cuda", "meta"})
    for module in ("cam_loss", "grad_cam", "attend", "attend_conv"):
        monkeypatch.setattr(f"fastcam.ops.{module}.raw", NoKernels())
    checks._warn_of_no_kernels.cache_clear()
    yield
    checks._warn_of_no_kernels.cache_clear()


@pytest.mark.parametrize("name", CALLS)
def test_the_functions_run_their_reference(name, request):
    wanted = CALLS[name]()
    request.getfixturevalue("without_kernels")
    with pytest.warns(UserWarning, match="no kernels for the device 'cpu': plain PyTorch runs"):
        got = CALLS[name]()
    torch.testing.assert_close(got, wanted)
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        CALLS[name]()


def test_a_step(request):
    net = small_cnn().double().eval()
    x, label = torch.randn(4, 3, 12, 12, dtype=torch.float64), torch.rand(4, 5).double()

    def step():
        criterion = IoUCamLoss(sharpness=2.0, max_pair_pull=1.0)
        with ActivationTap(net, "4", "5") as tap:
            logits = net(x)
            guidance = criterion(logits, tap, grids(4, 6, 6), 1)
            total = Balance()((logits - label).square().mean(), guidance, tap)
        return total, gradients_of(total, net), criterion.stats.valid, criterion.stats.dead

    wanted = step()
    request.getfixturevalue("without_kernels")
    with pytest.warns(UserWarning, match="no kernels"):
        got = step()
    torch.testing.assert_close(got[0], wanted[0])
    assert_same_gradients(got[1], wanted[1], 1e-6)
    assert got[2:] == wanted[2:]


def test_a_gpu_that_the_kernels_were_not_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA says of it "no kernel image is available for execution on the device", of no library."""
    monkeypatch.setattr(library, "cuda_missing", None)
    monkeypatch.setattr(library, "_built", lambda: {"arch_list": ["8.0", "9.0+PTX"]})
    tensor: Any = SimpleNamespace(device=torch.device("cuda", 0))
    checks.on_supported_device("activations", tensor)  # a fake one: no GPU has been used
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    checks._lacks_code.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"^activations: on cuda:0, .* built for 8\.0, 9\.0"):
            checks.on_supported_device("activations", tensor)
    finally:
        checks._lacks_code.cache_clear()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_arithmetic_as_it_is(half: torch.dtype) -> None:
    """As of the kernels, which it does not reach."""
    activations, gradients = A.float().requires_grad_(), D.float().expand(-1, -1, -1, 5, 6)
    weight, bias = WEIGHT.float(), BIAS.float()
    found = []
    for active in (False, True):
        with torch.autocast("cpu", half, enabled=active):
            loss = reference.cam_iou_loss(activations, gradients, S.float())
            pooled, _ = reference.attend_conv1x1(activations, weight, bias, 2.0)
        (gradient,) = torch.autograd.grad(loss, activations)
        found.append((loss, gradient, reference.grad_cam(activations, gradients), pooled))
    for plain, autocast in zip(*found, strict=True):
        torch.testing.assert_close(autocast, plain, rtol=0, atol=0)
