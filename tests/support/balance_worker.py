"""One process of the test that two processes balance as one, in an importable module."""

from __future__ import annotations

import torch
from networks import grids, small_cnn
from process_group import images, joined
from torch import Tensor, nn

from fastcam import ActivationTap, Balance, IoUCamLoss

WORLD = 2
BATCH = 6


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Images, regions and which of them are guided: as many in each process's half."""
    where = torch.tensor([True, False, True, False, True, True])
    return images(BATCH), grids(BATCH, 6, 6), where


def step(
    net: nn.Module, prefix: str, x: Tensor, regions: Tensor, where: Tensor, sync: str = "global"
) -> tuple[Tensor, list[Tensor]]:
    balance = Balance(sync=sync)
    net.zero_grad()
    with ActivationTap(net, f"{prefix}4", f"{prefix}5") as tap:
        logits = net(x)
        guidance = IoUCamLoss(sharpness=2.0)(logits, tap, regions, 1, where=where)
        loss = balance(logits.square().mean(), guidance, tap)
    loss.backward()
    return balance.ratio, [p.grad for p in net.parameters() if p.grad is not None]


def run(rank: int, world: int, folder: str) -> None:
    with joined(rank, world, folder) as found:
        parts = [tensor.chunk(world)[rank] for tensor in batch()]
        net = nn.parallel.DistributedDataParallel(small_cnn().double().eval())
        local, _ = step(net, "module.", *parts, sync="local")
        ratio, grads = step(net, "module.", *parts)
        found |= {"ratio": ratio, "local": float(local), "grads": grads}
