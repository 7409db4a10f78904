"""What is measured: calls of the loss at the shapes of the networks people fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.agreement import Step

# network: channels, (H, W) of the target layer, (H', W') of the gradients taken after pooling
NETWORKS = {
    "alexnet": (256, (13, 13), (6, 6)),
    "vgg16": (512, (14, 14), (7, 7)),
    "resnet50": (2048, (7, 7), (7, 7)),
}


@dataclass(frozen=True)
class Case:
    """One call of ``cam_iou_loss`` with gradients to activations and to their gradients."""

    network: str
    batch: int
    targets: int = 1
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    device: str = "cpu"
    pooled: bool = True  # D as after the network's pooling; False: of A's size

    @property
    def family(self) -> str:
        """All but the batch."""
        layout = "channels_last" if self.channels_last else "contiguous"
        kind = str(self.dtype).removeprefix("torch.")
        size = "" if self.pooled else ", D of A's size"
        return f"{self.network} T={self.targets} {kind} {layout}{size}"

    @property
    def name(self) -> str:
        network, rest = self.family.split(" ", 1)
        return f"{network} N={self.batch} {rest}"

    @property
    def cells(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) and (H', W')."""
        _, cells, grad_cells = NETWORKS[self.network]
        return cells, grad_cells if self.pooled else cells

    @property
    def input_bytes(self) -> tuple[int, int]:
        """Of A and of D."""
        channels = NETWORKS[self.network][0]
        (height, width), (grad_height, grad_width) = self.cells
        per_cell = self.batch * channels * self.dtype.itemsize
        return per_cell * height * width, per_cell * self.targets * grad_height * grad_width

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        channels = NETWORKS[self.network][0]
        cells, grad_cells = self.cells
        rng = torch.Generator(self.device).manual_seed(0)
        some: dict[str, Any] = {"generator": rng, "device": self.device}
        activations = torch.randn((self.batch, channels, *cells), **some).relu_()
        gradients = torch.randn((self.batch, self.targets, channels, *grad_cells), **some)
        regions = torch.rand((self.batch, self.targets, *cells), **some)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return (
            activations.to(self.dtype, memory_format=layout).requires_grad_(),
            gradients.mul_(0.1).add_(0.02).to(self.dtype).requires_grad_(),
            regions,
        )

    def steps(self, losses: dict[str, Callable[..., Tensor]]) -> dict[str, Step]:
        """Forward and backward of each loss on the same inputs: the value; dA and dD."""
        activations, gradients, regions = self.inputs()

        def step(loss: Callable[..., Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            value = loss(activations, gradients, regions)
            return [value.detach()], torch.autograd.grad(value, (activations, gradients))

        return {name: partial(step, loss) for name, loss in losses.items()}
