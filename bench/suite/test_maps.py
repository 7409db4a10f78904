"""Grad-CAM of one attribute and of all 40, from the images on, against the peers."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bench import peers
from bench.agreement import close
from bench.suite.conftest import SideBySide
from bench.training_step import FIRST, LAYERS

BATCH = 4


@pytest.mark.parametrize("count", [1, 40])
def test_maps(count: int, side_by_side: SideBySide) -> None:
    import torchvision

    model = torchvision.models.alexnet(num_classes=40).eval()
    images = torch.randn(BATCH, 3, 224, 224)
    targets = [FIRST] if count == 1 else list(range(count))
    found, missing = peers.installed()
    for name, why in missing.items():
        print(f"\n*** PEER LEFT OUT: {name} ({why}) ***", flush=True)
    explainers = {"fused": peers.fused, **found, "autograd, no peer": peers.plain_autograd}
    runs = {
        name: partial(explain, model, LAYERS["alexnet"][0], images, targets)
        for name, explain in explainers.items()
    }
    wanted = peers.comparable(runs["autograd, no peer"]())
    for name, run in runs.items():
        close(name, peers.comparable(run()), wanted, 1e-3)
    side_by_side(
        f"maps of {count} attributes" if count > 1 else "maps of one attribute",
        runs,
        seconds=15.0 if count == 1 else 0.0,
        least=11 if count == 1 else 3,
        peers=list(found),
        missing=missing,
    )
