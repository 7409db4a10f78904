"""What goes with large batches, in a loop of one's own: half precision with a scaled loss,
channels last, and checkpointed blocks before and around the tapped layer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from networks import grids, small_cnn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastcam import ActivationTap, Balance, EnergyCamLoss, IoUCamLoss

IMAGES = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(3))
REGIONS = grids(6, 6, 6).float()
LABELS = (torch.rand(6, 5, generator=torch.Generator().manual_seed(4)) > 0.5).float()


def bce(logits: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), LABELS)


def gradients(net: nn.Module) -> list[Any]:
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def guided(
    net: nn.Module, tap: ActivationTap, balance: Balance, images: Tensor = IMAGES, **options: Any
) -> Tensor:
    """The loss of a guided forward, in the tap's with block."""
    logits = net(images)
    return balance(bce(logits), EnergyCamLoss(**options)(logits, tap, REGIONS, 1), tap)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head", ["closed", "autograd"])
def test_a_scaled_loop_leaves_out_a_step_that_overflows(dtype: torch.dtype, head: str) -> None:
    """And then goes on: tap, balance and weights are as if it had not been."""
    net = small_cnn().eval()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    balance, looking = Balance(), ActivationTap(net, "4", "5")
    before = [p.detach().clone() for p in net.parameters()]
    ratios = []
    for step in range(4):
        optimizer.zero_grad()
        with looking as tap, torch.autocast("cpu", dtype):
            loss = guided(net, tap, balance, head=head)
        assert loss.dtype == torch.float32 and loss.isfinite()
        if step == 1:
            loss = loss * 1e36 * 1e3  # its scaled gradients are infinite
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        held = [p.detach().clone() for p in net.parameters()]
        scaler.step(optimizer)
        scaler.update()
        moved = not all(torch.equal(p, q) for p, q in zip(net.parameters(), held, strict=True))
        assert moved == (step != 1)
        assert scaler.get_scale() == (512.0 if step else 1024.0)
        ratios.append(float(balance.ratio))
    assert all(p.isfinite().all() for p in net.parameters())
    # In float32, without the second step.
    twin, again = small_cnn().eval(), Balance()
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for step in range(4):
        optimizer.zero_grad()
        with ActivationTap(twin, "4", "5") as tap:
            guided(twin, tap, again, head=head).backward()
        if step != 1:
            optimizer.step()
    assert float(again.ratio) == pytest.approx(ratios[-1], rel=0.1)
    half, full, start = (torch.cat([p.detach().flatten() for p in ps]) for ps in (
        net.parameters(), twin.parameters(), before,
    ))  # fmt: skip
    assert 0 < float((half - full).norm()) < 0.1 * float((full - start).norm())


@pytest.mark.parametrize("head", ["closed", "autograd"])
def test_channels_last_is_the_same(head: str) -> None:
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        net: Any = small_cnn().double().eval()
        net = net.to(memory_format=order)
        images = IMAGES.double().contiguous(memory_format=order)
        with ActivationTap(net, "4", "5") as tap:
            guided(net, tap, Balance(), images, head=head).backward()
            assert tap.activations.is_contiguous(memory_format=order)
        found.append(gradients(net))
    torch.testing.assert_close(found[1], found[0])


class Blocks(nn.Module):
    """Two blocks before the layer, the layer's own and a head; some are computed again."""

    def __init__(self, again: tuple[str, ...]) -> None:
        super().__init__()
        net = small_cnn().double()
        self.first, self.second, self.block, self.head = net[:2], net[2:3], net[3:5], net[5:]
        self.again = again

    def forward(self, images: Tensor) -> Tensor:
        for name in ("first", "second", "block", "head"):
            module = getattr(self, name)
            if name in self.again:
                images = checkpoint(module, images, use_reentrant=False)
            else:
                images = module(images)
        return images


# The layer outside of what is computed again, within it, and it and the head.
AGAIN = [("first", "second"), ("first", "second", "block"), ("block",), ("first", "block", "head")]


CASES = [
    (again, head)
    for again, head in itertools.product(AGAIN, ("closed", "autograd", "auto"))
    if "head" not in again or head != "closed"  # which is refused: tests/cam/test_tap_compiled.py
]


@pytest.mark.parametrize(("again", "head"), CASES)
@pytest.mark.parametrize("layer", ["block", "block.4"])
def test_checkpointed_blocks_change_nothing(again: tuple[str, ...], head: str, layer: str) -> None:
    """In training with dropout, over steps with one tap, a balance and parts of an update."""
    found = []
    for names in ((), again):
        net = Blocks(names)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        balance, looking = Balance(every=2), ActivationTap(net, layer)
        steps = []
        for step in range(4):
            if step % 2 == 0:  # two parts an update
                optimizer.zero_grad()
            torch.manual_seed(step)
            with looking as tap:
                logits = net(IMAGES.double())
                guidance = IoUCamLoss(head=head, sharpness=2.0)(logits, tap, REGIONS.double(), 1)
                label = nn.functional.binary_cross_entropy_with_logits(logits, LABELS.double())
                loss = balance(label, guidance, tap)
                if step == 3:  # within the block, too
                    loss.backward()
            if step != 3:
                loss.backward()
            steps.append((loss.detach(), balance.ratio, gradients(net)))
            optimizer.step()
        found.append(steps)
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)
