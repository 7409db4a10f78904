"""One process of the DistributedDataParallel test, in a module that a new process can import."""

from __future__ import annotations

import itertools

from networks import grids, small_cnn
from process_group import images, joined
from torch import Tensor, nn

from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import IoUCamLoss

WORLD = 2
BATCH = 6


def batch() -> tuple[Tensor, Tensor]:
    return images(BATCH), grids(BATCH, 2, 6, 6)


def step(
    net: nn.Module, prefix: str, x: Tensor, regions: Tensor, head: str, weight_grad: str
) -> Tensor:
    criterion = IoUCamLoss(sharpness=2.0, head=head, weight_grad=weight_grad)
    with ActivationTap(net, f"{prefix}4", f"{prefix}5") as tap:
        logits = net(x)
        loss = logits.square().mean() + criterion(logits, tap, regions, [1, 3])
    loss.backward()
    return loss.detach()


def run(rank: int, world: int, folder: str) -> None:
    with joined(rank, world, folder) as found:
        x, regions = (tensor.chunk(world)[rank] for tensor in batch())
        for case in itertools.product(("closed", "autograd"), ("full", "detach"), (False, True)):
            head, weight_grad, unused = case
            net = small_cnn().double().eval()  # no dropout: its masks would differ by process
            parallel = nn.parallel.DistributedDataParallel(net, find_unused_parameters=unused)
            for _ in range(2):  # a second step needs a reducer that finished the first
                parallel.zero_grad()
                loss = step(parallel, "module.", x, regions, head, weight_grad)
            found[case] = loss, [p.grad for p in net.parameters()]
