"""One process of the test that every loss's gradient over several processes is that of one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from networks import grids
from process_group import SHARES, images, joined, network
from torch import Tensor, nn

from fastcam import ActivationTap, ContrastCamLoss, InputGradientLoss
from fastcam.losses import CAM_LOSSES
from fastcam.losses.reduce import Reduction, world_size

_IMAGES = 5
CASES = [
    *itertools.product((*CAM_LOSSES, "contrast"), ("closed", "autograd"), ("full", "detach")),
    ("input gradient", "", ""),
]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "none")


def batch() -> dict[str, Tensor]:
    return {
        "images": images(_IMAGES),
        "regions": grids(_IMAGES, 2, 6, 6),
        "pixels": grids(_IMAGES, 2, 12, 12),
        "where": torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0], [1, 1]]).bool(),
    }


def loss_of(
    net: nn.Module, case: tuple[str, str, str], part: Mapping[str, Tensor], **options: Any
) -> Tensor:
    """One loss of a part of the batch, with the call that it takes."""
    name, *through = case
    prefix = "module." if isinstance(net, nn.parallel.DistributedDataParallel) else ""
    images = part["images"].clone().requires_grad_()
    options = dict(options)
    if any(through):
        options |= dict(zip(("head", "weight_grad"), through, strict=True))
    call = {"where": part["where"], "normalizer": options.pop("normalizer", None)}
    with ActivationTap(net, f"{prefix}4", f"{prefix}5") as tap:
        logits = net(images)
        if name == "contrast":
            loss = ContrastCamLoss(**options)(logits, tap, [0, 1], [2, 3], **call)
        elif name == "input gradient":
            criterion = InputGradientLoss(**options)
            loss = criterion(logits.log_softmax(1), images, part["pixels"], [0, 1], **call)
        else:
            cam = CAM_LOSSES[name](**options)
            loss = cam(logits, tap, part["regions"], [0, 1], **call)
    return loss + 0 * logits.sum()


def gradients(net: nn.Module, *arguments: Any, **options: Any) -> tuple[Tensor, list[Tensor]]:
    """A loss and its gradients; of one that is no mean its sum, times the number of processes, as
    DistributedDataParallel divides gradients by it."""
    net.zero_grad()
    loss = loss_of(net, *arguments, **options)
    if options.get("reduction", "mean") != "mean":
        loss = world_size() * loss.sum()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in net.parameters() if p.grad is not None]


def run(rank: int, world: int, folder: str) -> None:
    part = {k: t.split(SHARES[world])[rank] for k, t in batch().items()}
    with joined(rank, world, folder) as found:
        net = nn.parallel.DistributedDataParallel(network())
        for case, reduction in itertools.product(CASES, REDUCTIONS):
            found[case, reduction] = gradients(net, case, part, reduction=reduction)
        energy = ("energy", "closed", "full")
        found["local"] = gradients(net, energy, part, sync="local")
        found["normalizer"] = gradients(net, energy, part, normalizer=torch.tensor(10.0))
        found["none"] = {
            case: loss_of(net, case, part, reduction="none").detach() for case in CASES
        }
        if rank == 0:  # alone: nothing is waited for
            net.eval()
            found["alone"] = loss_of(net.module, energy, part).detach()
        others = dist.new_group([0])  # without the other processes, who have a handle of it, too
        try:
            loss_of(network(), energy, part, process_group=others)
        except ValueError as error:
            found["stranger"] = str(error)
