"""A small attention network as the analyses take it."""

from __future__ import annotations

from typing import Any

import torch
from tiny_faces import ATTRIBUTES

from fastcam.models import AttentionNetwork, Checkpoint
from fastcam.models.checkpoint import Preprocessing

OPTIONS = {"channels": 8, "stride": 4, "dilations": [1]}


def make_subject(**options: int) -> Checkpoint:
    """An attention network whose masks act: large weights, so that (n, β) changes its scores."""
    torch.manual_seed(0)
    network = AttentionNetwork(3, **OPTIONS, **options)
    with torch.no_grad():
        network.masks_conv.weight.mul_(3)
        network.binary.weight.normal_()
    return Checkpoint(
        network.eval(), "attention", list(ATTRIBUTES), Preprocessing(32),
        model_options={**OPTIONS, **options},
    )  # fmt: skip


def network_of(checkpoint: Checkpoint) -> AttentionNetwork:
    assert isinstance(checkpoint.model, AttentionNetwork)
    return checkpoint.model


def images_of(checkpoint: Checkpoint, faces: Any) -> torch.Tensor:
    """All images, normalised."""
    pixels = torch.stack([faces[i]["image"].as_subclass(torch.Tensor) for i in range(len(faces))])
    return checkpoint.preprocessing.normalize(pixels)
