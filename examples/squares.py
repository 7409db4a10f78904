"""What the scripts beside this one train on: squares of two colours, and where they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def draw(count: int, side: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Images [N,3,side,side], labels [N,2] (red, blue) and masks [N,side,side] of the squares."""
    images = 0.3 * torch.rand(count, 3, side, side)
    labels = torch.nn.functional.one_hot(torch.arange(count) % 2, 2).float()
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for i in range(count):
        top, left = torch.randint(0, side * 2 // 3, (2,)).tolist()
        masks[i, top : top + side // 3, left : left + side // 3] = True
        images[i, 2 * (i % 2)] += 0.7 * masks[i]  # channel 0 is red, 2 is blue
    return images, labels, masks


def network() -> nn.Sequential:
    """A small one; for images of 64 pixels it has 16×16 cells after layer 3."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU(),
        nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(32 * 16, 2),
    )  # fmt: skip
