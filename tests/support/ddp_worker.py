"""One process of the DistributedDataParallel test, in a module that a new process can import."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from networks import grids, small_cnn
from torch import Tensor, nn

from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import IoUCamLoss

WORLD = 2
BATCH = 6


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(BATCH, 3, 12, 12, generator=generator, dtype=torch.float64)
    return x, grids(BATCH, 2, 6, 6)


def step(
    net: nn.Module, prefix: str, x: Tensor, regions: Tensor, head: str, weight_grad: str
) -> Tensor:
    criterion = IoUCamLoss(sharpness=2.0, head=head, weight_grad=weight_grad)
    with ActivationTap(net, f"{prefix}4", f"{prefix}5") as tap:
        logits = net(x)
        loss = logits.square().mean() + criterion(logits, tap, regions, [1, 3])
    loss.backward()
    return loss.detach()


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    x, regions = (tensor.chunk(WORLD)[rank] for tensor in batch())
    results = {}
    for head in ("closed", "autograd"):
        for weight_grad in ("full", "detach"):
            for unused in (False, True):
                net = small_cnn().double().eval()  # no dropout: its masks would differ by process
                parallel = nn.parallel.DistributedDataParallel(net, find_unused_parameters=unused)
                for _ in range(2):  # a second step needs a reducer that finished the first
                    parallel.zero_grad()
                    loss = step(parallel, "module.", x, regions, head, weight_grad)
                results[head, weight_grad, unused] = loss, [p.grad for p in net.parameters()]
    torch.save(results, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()
