"""The loop of the README as a whole script: what the loader yields, and where regions come from.

    python examples/loop.py

Trains torchvision's AlexNet on images drawn by squares.py: noise with a square of one of two
colours. The square's mask is what the network should look at. Needs torch, torchvision and fastcam.
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from squares import draw
from torch.utils.data import DataLoader, TensorDataset

import fastcam
from fastcam.regions import from_masks


def main(steps: int = 12, batch_size: int = 16) -> list[float]:
    """Train for some steps; returns the share of the map's energy in the region at each."""
    torch.manual_seed(0)
    images, labels, masks = draw(4 * batch_size, 224)
    # AlexNet's layer features.11 has 13×13 cells for images of 224 pixels (`fastcam layers alexnet`
    # lists a network's layers). Each cell of the grid [N,13,13] is the share of it that the mask
    # covers.
    regions = from_masks(masks, 13)
    loader = DataLoader(TensorDataset(images, labels, regions), batch_size, shuffle=True)

    model = torchvision.models.alexnet(num_classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = fastcam.EnergyCamLoss()
    balance = fastcam.Balance()  # as hard as the labels
    bce = torch.nn.BCEWithLogitsLoss()
    looking = fastcam.ActivationTap(model, "features.11", gradient_at="features.12")

    inside: list[float] = []
    while len(inside) < steps:
        for images, labels, regions in loader:  # regions [N,13,13] in [0,1]: where to look
            with looking as tap:
                logits = model(images)
                # The map of "red" (score 0), in the images that have it.
                guidance = criterion(logits, tap, regions, targets=0, where=labels[:, 0] > 0)
                loss = balance(bce(logits, labels), guidance, tap)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            inside.append(1 - float(guidance.detach()))
            print(f"step {len(inside)}: loss {float(loss.detach()):.3f},", end=" ")
            print(f"energy in the region {inside[-1]:.0%}")
            if len(inside) == steps:
                break
    return inside


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    main(arguments.steps, arguments.batch_size)
