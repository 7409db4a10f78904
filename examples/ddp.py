"""The loop of several processes: DistributedDataParallel's gradient is that of one process.

    torchrun --nproc-per-node 2 examples/ddp.py

Trains a small network on images drawn by squares.py: noise with a square of one of two colours,
whose mask is what the network should look at. On GPUs it speaks through NCCL, else through Gloo.
Needs torch and fastcam.
"""

from __future__ import annotations

import argparse
import os
import sys

import torch
import torch.distributed as dist
from squares import draw, network
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.parallel import DistributedDataParallel

import fastcam
from fastcam.regions import from_masks


def main(steps: int = 12, batch_size: int = 15) -> None:
    """Train for some steps; the batch is that of all processes together."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)  # the same images, weights and order in every process
    images, labels, masks = draw(max(64, 2 * batch_size))
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
    sys.stdout.flush()
    os._exit(0)  # a late thread of Gloo would abort the process while the interpreter ends
