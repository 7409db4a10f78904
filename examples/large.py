"""The loop of large batches: each is taken in parts, and the step is that of the whole batch.

    python examples/large.py

Trains a small network on images drawn by squares.py: noise with a square of one of two colours,
whose mask is what the network should look at. On a GPU in float16, with a scaled loss. Needs torch
and fastcam.
"""

from __future__ import annotations

import argparse

import torch
from squares import draw, network
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.optim.lr_scheduler import LinearLR

import fastcam
from fastcam.regions import from_masks


def main(steps: int = 8, batch_size: int = 256, parts: int = 8) -> list[float]:
    """Train for some steps; returns the share of the maps' energy in the region at each."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = device.type == "cuda"
    torch.manual_seed(0)
    images, labels, masks = draw(2 * batch_size)
    regions = from_masks(masks, 16)
    model = network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # The rate grows with the batch (0.02 for 64 images), after a warm-up.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02 * batch_size / 64, momentum=0.9)
    warmup = LinearLR(optimizer, 1 / 4, total_iters=3)
    scaler = torch.amp.GradScaler(device.type, enabled=half)  # type: ignore[attr-defined]
    criterion = fastcam.EnergyCamLoss()
    balance = fastcam.Balance(pull=0.5)
    looking = fastcam.ActivationTap(model, "3", gradient_at="4")

    inside: list[float] = []
    while len(inside) < steps:
        chosen = torch.randperm(len(images))[:batch_size]
        # What the losses of the parts are divided by, of the whole batch: images and pairs.
        pairs = criterion.valid_pairs(regions[chosen], where=labels[chosen, 0] > 0).sum()
        optimizer.zero_grad()
        outside = torch.zeros((), device=device)
        # Where the balance measures it has to see the whole batch before the first part counts: a
        # forward more. (With dropout, set the seed alike before both.)
        for measuring in (True, False) if balance.due else (False,):
            if not measuring:
                balance.update()
            for part in chosen.chunk(parts):
                image = images[part].to(device, memory_format=torch.channels_last)
                label, region = labels[part].to(device), regions[part].to(device)
                with looking as tap, torch.autocast(device.type, torch.float16, enabled=half):
                    logits = model(image)
                    guidance = criterion(
                        logits, tap, region, targets=0, where=label[:, 0] > 0,
                        normalizer=max(int(pairs), 1),
                    )  # fmt: skip
                    label_loss = bce(logits, label, reduction="sum") / (2 * batch_size)
                    if measuring:
                        balance.gather(label_loss, guidance, tap)
                        continue
                    loss = balance.weighed(label_loss, guidance, tap)
                scaler.scale(loss).backward()
                outside += guidance.detach()
        scaler.unscale_(optimizer)  # before what looks at the gradients
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)  # leaves out a step whose gradients overflow
        scaler.update()
        warmup.step()
        inside.append(1 - float(outside))
        print(f"step {len(inside)}: energy in the region {inside[-1]:.4f}")
    return inside


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--parts", type=int, default=8)
    arguments = parser.parse_args()
    main(arguments.steps, arguments.batch_size, arguments.parts)
