"""A tiny training run, and what is compared of two."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from tiny_faces import MODEL
from torch import Tensor

from fastcam.models import load_checkpoint
from fastcam.training import TrainConfig


def run_config(data: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        str(data), model=MODEL, size=32, epochs=3, patience=0, batch_size=10, lr=0.05,
        clip=0.0, device="cpu", workers=1,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def weights_of(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path).model.state_dict()


def same_weights(first: Path, second: Path) -> bool:
    one, two = weights_of(first), weights_of(second)
    return all(torch.equal(one[k], two[k]) for k in one)
