"""The loop of several processes: DistributedDataParallel's gradient is that of one process.

    torchrun --nproc-per-node 2 examples/ddp.py

Trains a small network on images that the script draws: noise with a square of one of two colours,
whose mask is what the network should look at. On GPUs it speaks through NCCL, else through Gloo.
Needs torch and fastcam.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.parallel import DistributedDataParallel

import fastcam
from fastcam.regions import from_masks


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
    """With 16×16 cells after layer 3, the target of Grad-CAM."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU(),
        nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(32 * 16, 2),
    )  # fmt: skip


def main(steps: int = 12, batch_size: int = 15) -> None:
    """Train for some steps; the batch is that of all processes together."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)  # the same images, weights and order in every process
    images, labels, masks = draw(64)
    regions = from_masks(masks, 16)
    model = network().to(device)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    criterion = fastcam.EnergyCamLoss()  # its mean is over the pairs of all processes
    balance = fastcam.Balance(pull=0.5)  # and so is its measurement
    looking = fastcam.ActivationTap(model, "3", gradient_at="4")  # of the network, not its wrapper

    for step in range(1, steps + 1):
        # A batch divided among the processes, none twice; a share may be smaller, or empty.
        share = torch.randperm(len(images))[:batch_size][rank::world]
        image, label, region = (t[share].to(device) for t in (images, labels, regions))
        with looking as tap:
            logits = parallel(image)
            guidance = criterion(logits, tap, region, targets=0, where=label[:, 0] > 0)
            # The processes' gradients are averaged: sum over the whole batch's count, times world.
            labels_loss = bce(logits, label, reduction="sum") * world / (2 * batch_size)
            loss = balance(labels_loss, guidance, tap)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        shown = torch.stack([labels_loss.detach(), guidance.detach()]) / world
        dist.all_reduce(shown)
        if rank == 0:
            print(
                f"step {step}: label loss {shown[0]:.4f}, energy in the region {1 - shown[1]:.4f}"
            )
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=15)
    arguments = parser.parse_args()
    main(arguments.steps, arguments.batch_size)
