"""What is measured: calls of the loss at the shapes of the networks people fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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

    @property
    def name(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.network} N={self.batch} T={self.targets} {kind} {layout}"

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        channels, cells, grad_cells = NETWORKS[self.network]
        rng = torch.Generator().manual_seed(0)
        activations = torch.randn((self.batch, channels, *cells), generator=rng).relu()
        gradients = torch.randn((self.batch, self.targets, channels, *grad_cells), generator=rng)
        regions = torch.rand((self.batch, self.targets, *cells), generator=rng)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return (
            activations.to(self.device, self.dtype, memory_format=layout).requires_grad_(),
            (0.1 * gradients + 0.02).to(self.device, self.dtype).requires_grad_(),
            regions.to(self.device),
        )

    def step(self, loss: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        """Forward and backward of one call."""
        activations, gradients, regions = self.inputs()

        def run() -> tuple[Tensor, ...]:
            value = loss(activations, gradients, regions)
            return (value, *torch.autograd.grad(value, (activations, gradients)))

        return run
