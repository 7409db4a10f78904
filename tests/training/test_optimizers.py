"""Optimisers and learning rates of large batches, by the papers' formulas."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastcam.training import TrainConfig
from fastcam.training.optimizers import optimizer_of, rate, schedule_of

_DECAY, _MOMENTUM = 0.1, 0.8


def network() -> nn.Sequential:
    """With weights of very different norms, a norm's weight, and one tensor of zeros."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    with torch.no_grad():
        net[0].weight.mul_(100)  # type: ignore[operator]
        net[2].bias.zero_()  # type: ignore[operator]
    return net.double()


def loss_of(net: nn.Module) -> Tensor:
    images = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return net(images).square().mean()


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"lr": 0.5, "weight_decay": _DECAY, **changes})


def lars_by_hand(steps: int) -> list[Tensor]:
    """You et al. 2017, Algorithm 1: λ = η·‖w‖ / (‖∇L‖ + β·‖w‖), v ← m·v + γ·λ·(∇L + β·w)."""
    net = network()
    weights = list(net.parameters())
    moments = [torch.zeros_like(w) for w in weights]
    for _ in range(steps):
        gradients = torch.autograd.grad(loss_of(net), weights)
        with torch.no_grad():
            for w, v, g in zip(weights, moments, gradients, strict=True):
                decay = _DECAY if w.dim() > 1 else 0.0
                local = 1e-3 * w.norm() / (g.norm() + decay * w.norm()) if w.dim() > 1 else 1.0
                v.mul_(_MOMENTUM).add_(0.5 * local * (g + decay * w))
                w.sub_(v)
    return weights


def lamb_by_hand(steps: int) -> list[Tensor]:
    """You et al. 2020, Algorithm 2, φ the identity: w ← w − η·‖w‖/‖r + λw‖·(r + λw)."""
    net = network()
    weights = list(net.parameters())
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad(loss_of(net), weights)
        with torch.no_grad():
            for w, m, v, g in zip(weights, first, second, gradients, strict=True):
                m.mul_(_MOMENTUM).add_((1 - _MOMENTUM) * g)
                v.mul_(0.999).add_(0.001 * g * g)
                r = (m / (1 - _MOMENTUM**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-6)
                r = r + (_DECAY if w.dim() > 1 else 0.0) * w
                trust = w.norm() / r.norm() if w.dim() > 1 else 1.0
                w.sub_(0.5 * trust * r)
    return weights


@pytest.mark.parametrize(("name", "by_hand"), [("lars", lars_by_hand), ("lamb", lamb_by_hand)])
@pytest.mark.parametrize("steps", [1, 3])
def test_steps_are_those_of_the_paper(name: str, by_hand: Any, steps: int) -> None:
    """With a closure, as Lightning calls it."""
    pytest.importorskip("timm")
    net = network()
    optimizer = optimizer_of(net, config(optimizer=name, momentum=_MOMENTUM))
    seen = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        seen.append(loss)
        return loss

    for number in range(steps):
        assert optimizer.step(closure) is seen[number]
    torch.testing.assert_close(list(net.parameters()), by_hand(steps), rtol=1e-6, atol=1e-9)
    before = list(network().parameters())
    assert all(not torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("decay", [0.0, _DECAY])
def test_a_layer_s_step_is_in_proportion_to_its_norm(decay: float) -> None:
    """Also without weight decay, where timm itself would not adapt."""
    pytest.importorskip("timm")
    for name, share in (("lars", 1e-3), ("lamb", 1.0)):
        net = network()
        optimizer = optimizer_of(net, config(optimizer=name, weight_decay=decay, momentum=0.0))
        loss_of(net).backward()
        optimizer.step()
        for at in (0, 2):
            old: Any = network()[at].weight.detach()
            moved = (net[at].weight.detach() - old).norm() / old.norm()  # type: ignore[operator]
            if name == "lamb" or not decay:
                assert float(moved) == pytest.approx(0.5 * share, rel=1e-5)


def test_sgd_is_fused_but_beside_a_scaler() -> None:
    for scaled in (False, True):
        optimizer = optimizer_of(network(), config(), scaled=scaled)
        (group,) = optimizer.param_groups
        assert type(optimizer) is torch.optim.SGD
        assert (group["fused"], group["weight_decay"], len(group["params"])) == (
            not scaled, _DECAY, 6,
        )  # fmt: skip


def test_the_learning_rate_grows_with_the_batch() -> None:
    assert rate(config(batch_size=1024, lr_batch=256)) == pytest.approx(2.0)
    assert rate(config(batch_size=64, lr_batch=256)) == pytest.approx(0.125)
    assert rate(config(batch_size=1024)) == 0.5
    optimizer = optimizer_of(network(), config(batch_size=512, lr_batch=256))
    assert optimizer.param_groups[0]["lr"] == 1.0


def rates(steps: int, **changes: Any) -> list[float]:
    optimizer = torch.optim.SGD(network().parameters(), 1.0)
    schedule = schedule_of(optimizer, config(**changes), steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return found


def test_the_rate_rises_evenly_and_then_goes_its_way() -> None:
    assert rates(6, warmup=0.5) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    cosine = rates(4, schedule="cosine")
    assert rates(7, warmup=0.43, schedule="cosine") == pytest.approx([0.25, 0.5, 0.75, *cosine])
    assert rates(10, warmup=0.01, schedule="cosine") == pytest.approx(rates(10, schedule="cosine"))
    assert rates(1, warmup=0.9) == [1.0]
    assert rates(3) == [1.0] * 3


def test_what_cannot_be_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = torch.optim.SGD(network().parameters(), 1.0)
    with pytest.raises(ValueError, match="warmup needs to know how many batches"):
        schedule_of(optimizer, config(warmup=0.1), 0)
    with pytest.raises(ValueError, match="schedule: cosine needs to know how many batches"):
        schedule_of(optimizer, config(schedule="cosine"), 0)
    for changes, message in (
        ({"warmup": 1.0}, r"warmup: expected a number in \[0, 1\), got 1.0"),
        ({"lr_batch": 0}, "lr_batch: expected a whole number of at least 1, got 0"),
        ({"optimizer": "adam"}, "optimizer: expected one of .*'lars'.* got 'adam'"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**changes)
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(ImportError, match=r"needs 'timm'; .* pip install 'fastcam\[timm\]'"):
        optimizer_of(network(), config(optimizer="lamb"))
