"""One process of the test that several processes balance as one, in an importable module."""

from __future__ import annotations

import torch
import torch.distributed as dist
from networks import grids, small_cnn
from process_group import SHARES, images, joined
from torch import Tensor, nn

from fastcam import ActivationTap, Balance, IoUCamLoss

HEADS = ("closed", "autograd")
_BATCH = 5


def network() -> nn.Module:
    return small_cnn().double().eval()


class TwoHeads(nn.Module):
    """The first ``split`` rows of a batch have a head of their own, without the last layer."""

    def __init__(self) -> None:
        super().__init__()
        whole = network()
        self.features, self.own = whole[:7], whole[7:]
        self.last = nn.Linear(72, 5, dtype=torch.float64)

    def forward(self, images: Tensor, split: int) -> Tensor:
        found = self.features(images)
        parts = [self.own(found[:split])] if split else []
        parts += [self.last(found[split:])] if split < len(images) or not parts else []
        return torch.cat(parts)


def heads_step(net: nn.Module, part: tuple[Tensor, ...], split: int) -> tuple[Tensor, list[Tensor]]:
    x, regions, where = part
    inner = net.module if isinstance(net, nn.parallel.DistributedDataParallel) else net
    world = dist.get_world_size() if inner is not net else 1
    balance = Balance()
    with ActivationTap(inner, "features.4") as tap:
        logits = net(x, split)
        label = logits.square().mean(1).sum() * world / _BATCH
        loss = balance(label, IoUCamLoss(sharpness=2.0)(logits, tap, regions, 1, where=where), tap)
    loss.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in inner.parameters()]
    return balance.ratio, grads


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Images, regions and which of them are guided: in some process of four there are none."""
    where = torch.tensor([True, False, False, True, True])
    return images(_BATCH), grids(_BATCH, 6, 6), where


def step(
    net: nn.Module, part: tuple[Tensor, ...], head: str, sync: str = "global"
) -> tuple[Tensor, list[Tensor]]:
    x, regions, where = part
    parallel = isinstance(net, nn.parallel.DistributedDataParallel)
    prefix, world = ("module.", dist.get_world_size()) if parallel else ("", 1)
    balance = Balance(sync=sync)
    criterion = IoUCamLoss(sharpness=2.0, head=head)
    net.zero_grad()
    with ActivationTap(net, f"{prefix}4", f"{prefix}5") as tap:
        logits = net(x)
        label = logits.square().mean(1).sum() * world / _BATCH
        loss = balance(label, criterion(logits, tap, regions, 1, where=where), tap)
    loss.backward()
    return balance.ratio, [p.grad.clone() for p in net.parameters() if p.grad is not None]


def run(rank: int, world: int, folder: str) -> None:
    with joined(rank, world, folder) as found:
        part = tuple(tensor.split(SHARES[world])[rank] for tensor in batch())
        net = nn.parallel.DistributedDataParallel(network())
        for head in HEADS:
            local, _ = step(net, part, head, sync="local")
            ratio, grads = step(net, part, head)
            found[head] = {"ratio": ratio, "local": float(local), "grads": grads}
        torch.manual_seed(3)
        two = nn.parallel.DistributedDataParallel(TwoHeads(), find_unused_parameters=True)
        found["heads"] = heads_step(two, part, len(part[0]) if rank == 0 else 0)
