"""One process of the test that label losses and guided steps over several are those of one."""

from __future__ import annotations

from typing import Any

import torch
from networks import grids, small_cnn
from process_group import SHARES, images, joined, without_dropout
from small_attention import K, small_network
from torch import Tensor, nn

from fastcam.models import ModelSpec
from fastcam.training.config import GuidanceConfig
from fastcam.training.group_dro import GroupDRO
from fastcam.training.guidance import Guidance
from fastcam.training.objective import attribute_loss, multiclass_loss, multilabel_loss

CASES = ("multilabel", "multiclass", "attention", "group_dro", "guided", "classes guided")
NAMES = ["a", "b", "c", "d", "e"]
_IMAGES = 5
_STEPS = 2  # of GroupDRO the weights of the second come from the first


def attention() -> nn.Module:
    """Which has a loss of its own, in all its parts; with batch norm's means of the run, as those
    of a batch are each process's own."""
    torch.manual_seed(0)
    network = small_network(loss={"lambda_r": 2.0, "lambda_1": 0.1})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return network


class Step(nn.Module):
    """From images, labels and regions to a loss and what is told of it."""

    def __init__(self, case: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model: Any = without_dropout(attention() if case == "attention" else small_cnn())
        self.guidance: Guidance | None = None
        classes = case in ("multiclass", "classes guided")
        self.loss: Any = multiclass_loss if classes else multilabel_loss
        if case == "group_dro":
            self.loss = GroupDRO(NAMES, "a", "b", step=0.5)
        if case.endswith("guided"):
            config = GuidanceConfig(
                (("own_class" if classes else "a", "mouth"), ("b", "mouth")),
                losses=("energy", "iou"), guide="all" if classes else "positives",
            )  # fmt: skip
            spec = ModelSpec(small_cnn, "4", "5")
            self.guidance = Guidance(config, self.model, spec, NAMES, self.loss, classes)

    def forward(self, images: Tensor, labels: Tensor, regions: Tensor) -> Any:
        if self.guidance is None:
            found = attribute_loss(self.model, images, labels, self.loss)
            return found.loss, found.parts
        _, term = self.guidance(images, labels, regions)
        return term.total, term.record()


def batch(case: str) -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.tensor(
        [[1, 1, 0, 1, 0], [0, 1, 0, 0, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1]]
    )
    if case in ("multiclass", "classes guided"):
        labels = torch.eye(5)[[0, 3, 1, 1, 4]]
    if case == "attention":
        labels = labels[:, :K]
    return images(_IMAGES), labels.double(), grids(_IMAGES, 2, 6, 6)


def steps(net: nn.Module, part: tuple[Tensor, ...]) -> dict[str, Any]:
    """Losses, parts and gradients of some steps without an update between them."""
    losses = []
    parts: Any = {}
    for _ in range(_STEPS):
        net.zero_grad()
        loss, parts = net(*part)
        loss.backward()
        losses.append(loss.detach())
    grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    return {"losses": torch.stack(losses), "parts": dict(parts), "grads": grads}


def run(rank: int, world: int, folder: str) -> None:
    with joined(rank, world, folder) as found:
        for case in CASES:
            part = tuple(t.split(SHARES[world])[rank] for t in batch(case))
            found[case] = steps(nn.parallel.DistributedDataParallel(Step(case)), part)
        if rank == 0:  # alone: nothing is waited for
            step = Step("guided").eval()
            for module in (step, step.guidance):
                module.eval()
            found["alone"] = step(*(t[:2] for t in batch("guided")))[0].detach()
