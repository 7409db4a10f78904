"""One process of the test that every loss's gradient over several processes is that of one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from networks import grids, small_cnn
from torch import Tensor, nn

from fastcam import ActivationTap, ContrastCamLoss, InputGradientLoss
from fastcam.losses import CAM_LOSSES

#: How many images each process has, by how many processes there are: uneven, and none in one.
SHARES = {2: (4, 1), 4: (2, 0, 1, 2)}
_IMAGES = 5
CASES = [
    *itertools.product(CAM_LOSSES, ("closed", "autograd"), ("full", "detach")),
    ("contrast", "closed", "full"),
    ("input gradient", "", ""),
]


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    return {
        "images": torch.randn(_IMAGES, 3, 12, 12, generator=generator, dtype=torch.float64),
        "regions": grids(_IMAGES, 2, 6, 6),
        "pixels": grids(_IMAGES, 2, 12, 12),
        "where": torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0], [1, 1]]).bool(),
    }


def loss_of(
    net: nn.Module, case: tuple[str, str, str], part: Mapping[str, Tensor], **options: Any
) -> Tensor:
    """One loss of a part of the batch, with the call that it takes."""
    name, head, grad = case
    prefix = "module." if isinstance(net, nn.parallel.DistributedDataParallel) else ""
    images = part["images"].clone().requires_grad_()
    options = dict(options)
    call = {"where": part["where"], "normalizer": options.pop("normalizer", None)}
    with ActivationTap(net, f"{prefix}4", f"{prefix}5") as tap:
        logits = net(images)
        if name == "contrast":
            loss = ContrastCamLoss(**options)(logits, tap, [0, 1], [2, 3], **call)
        elif name == "input gradient":
            criterion = InputGradientLoss(**options)
            loss = criterion(logits.log_softmax(1), images, part["pixels"], [0, 1], **call)
        else:
            cam = CAM_LOSSES[name](head=head, weight_grad=grad, **options)
            loss = cam(logits, tap, part["regions"], [0, 1], **call)
    return loss + 0 * logits.sum()


def network() -> nn.Module:
    net = small_cnn().double()
    for module in net:
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # its masks would differ by process
    return net


def gradients(net: nn.Module, *arguments: Any, **options: Any) -> tuple[Tensor, list[Tensor]]:
    net.zero_grad()
    loss = loss_of(net, *arguments, **options)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in net.parameters() if p.grad is not None]


def run(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=world)
    part = {k: t.split(SHARES[world])[rank] for k, t in batch().items()}
    net = nn.parallel.DistributedDataParallel(network())
    found: dict[Any, Any] = {case: gradients(net, case, part) for case in CASES}
    energy = ("energy", "closed", "full")
    found["local"] = gradients(net, energy, part, sync="local")
    found["normalizer"] = gradients(net, energy, part, normalizer=torch.tensor(10.0))
    found["none"] = loss_of(net, energy, part, reduction="none").detach()
    if rank == 0:  # alone: nothing is waited for
        net.eval()
        found["alone"] = loss_of(net.module, energy, part).detach()
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()
