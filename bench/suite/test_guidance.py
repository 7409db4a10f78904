"""A fine-tuning step with the IoU-CAM loss against the same step with BCE alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bench.suite.conftest import SideBySide
from bench.training_step import FineTuning, Loss


def all_agree(network: str, targets: int) -> None:
    """On two images: every gradient is what plain autograd makes it, or nothing is timed."""
    tuning = FineTuning(network, 2)
    got = tuning.gradients(partial(tuning.fused, targets=targets))
    wanted = tuning.gradients(partial(tuning.eager, targets=targets))
    for one, other in zip(got, wanted, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * scale)


def measure(
    side_by_side: SideBySide,
    name: str,
    tuning: FineTuning,
    losses: dict[str, Loss],
    seconds: float,
    least: int,
) -> None:
    steps = {"BCE alone": tuning.step(tuning.plain)}
    steps |= {candidate: tuning.step(loss) for candidate, loss in losses.items()}
    side_by_side(name, steps, seconds=seconds, least=least, most=15)


@pytest.mark.parametrize("batch", [64, 128], ids="alexnet N{}".format)
def test_step(batch: int, side_by_side: SideBySide) -> None:
    """The target."""
    all_agree("alexnet", 1)
    tuning = FineTuning("alexnet", batch)
    losses: dict[str, Loss] = {
        "exact": tuning.fused,
        "mean dropout": partial(tuning.fused, head="mean_dropout"),
    }
    measure(side_by_side, f"step alexnet N={batch}", tuning, losses, 40.0, 5)


def test_step_of_several_targets(side_by_side: SideBySide) -> None:
    all_agree("alexnet", 40)
    tuning = FineTuning("alexnet", 64)
    losses: dict[str, Loss] = {
        "exact, T = 4": partial(tuning.fused, targets=4),
        "exact, T = 40": partial(tuning.fused, targets=40),
        "T = 1 by autograd, no fastcam": tuning.eager,
    }
    measure(side_by_side, "step alexnet N=64, several targets", tuning, losses, 20.0, 3)


@pytest.mark.parametrize("network", ["vgg16", "resnet50"])
def test_step_of_others(network: str, side_by_side: SideBySide) -> None:
    all_agree(network, 1)
    tuning = FineTuning(network, 8)
    measure(side_by_side, f"step {network} N=8", tuning, {"exact": tuning.fused}, 20.0, 3)
