"""A fine-tuning step with the IoU-CAM loss against the same step with BCE alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bench.suite.conftest import SideBySide
from bench.training_step import FineTuning, Loss

# network, batch, most targets
CASES = (("alexnet", 64, 40), ("alexnet", 128, 1), ("vgg16", 8, 1), ("resnet50", 8, 1))


def candidates(tuning: FineTuning, most: int) -> dict[str, Loss]:
    losses: dict[str, Loss] = {"BCE alone": tuning.plain, "exact": tuning.fused}
    if isinstance(getattr(tuning.model, "classifier", None), torch.nn.Sequential):
        losses["mean dropout"] = partial(tuning.fused, head="mean_dropout")
    if most > 1:
        losses["exact, T = 4"] = partial(tuning.fused, targets=4)
        losses[f"exact, T = {most}"] = partial(tuning.fused, targets=most)
    losses["autograd, no fastcam"] = tuning.eager
    return losses


def check(network: str, most: int) -> None:
    """On a small batch: every gradient is what plain autograd makes it, or nothing is timed."""
    tuning = FineTuning(network, 2)
    for targets in {1, most}:
        got = tuning.gradients(partial(tuning.fused, targets=targets))
        wanted = tuning.gradients(partial(tuning.eager, targets=targets))
        for one, other in zip(got, wanted, strict=True):
            scale = other.abs().max().item()
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize(
    ("network", "batch", "most"), CASES, ids=[f"{name} N{batch}" for name, batch, _ in CASES]
)
def test_step(network: str, batch: int, most: int, side_by_side: SideBySide) -> None:
    check(network, most)
    tuning = FineTuning(network, batch)
    losses = candidates(tuning, most)
    if network != "alexnet":  # slow, and without a target
        del losses["autograd, no fastcam"]
    steps = {name: tuning.step(loss) for name, loss in losses.items()}
    side_by_side(
        f"step {network} N={batch}",
        steps,
        seconds=50.0 if network == "alexnet" else 25.0,
        least=4,
        most=15,
    )
