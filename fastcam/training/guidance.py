"""The Grad-CAM term of the training loss: targets, cell weights, and the sharpness schedule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastcam.data.celeba import attribute_index
from fastcam.losses import IoUCamLoss
from fastcam.models import ModelSpec
from fastcam.tap import ActivationTap
from fastcam.training.config import GuidanceConfig
from fastcam.training.objective import AttributeLoss, attribute_loss


def cell_weights(regions: Tensor, region_weight: float) -> Tensor:
    """Weights [N, T, h, w]: ``region_weight`` where the region covers, 1 outside (Y 3.1)."""
    return 1 + (region_weight - 1) * regions


def guided_pairs(labels: Tensor, guide: str) -> Tensor:
    """Which (image, target) pairs are guided: bool [N, T] from the targets' ``labels`` [N, T]."""
    return labels > 0.5 if guide == "positives" else torch.ones_like(labels, dtype=torch.bool)


def warm_sharpness(sharpness: float, progress: float) -> float:
    """Sharpness after a share ``progress`` of the run: linear from 1 to ``sharpness``."""
    return 1 + (sharpness - 1) * min(max(progress, 0.0), 1.0)


@dataclass
class GuidanceTerm:
    """One batch's Grad-CAM loss and what is worth knowing about it.

    loss: scalar, the mean over valid pairs.
    valid, dead: how many pairs were valid, and how many of them had an all-zero map.
    """

    loss: Tensor
    valid: int
    dead: int


class Guidance:
    """Computes the attribute loss and the Grad-CAM IoU loss in one forward pass.

    Args:
        config: where to look.
        model, spec: the network and its Grad-CAM layer.
        attributes: names of the logits.

    Raises:
        ValueError: an attribute that the model does not have, or a ``weight_grad`` that it cannot
            have.
    """

    def __init__(
        self, config: GuidanceConfig, model: nn.Module, spec: ModelSpec, attributes: list[str]
    ) -> None:
        if config.weight_grad not in spec.weight_grads:
            allowed = " or ".join(repr(w) for w in spec.weight_grads)
            raise ValueError(
                f"weight_grad must be {allowed} for this model, whose head cannot be"
                f" differentiated twice, got {config.weight_grad!r}"
            )
        self.config = config
        self.targets = torch.tensor([attribute_index(attributes, a) for a, _ in config.targets])
        self.model = model
        self.tap = ActivationTap(model, spec.target_layer, gradient_at=spec.gradient_at)
        self.criterion = IoUCamLoss(
            threshold=config.threshold,
            sharpness=1.0 if config.sharpness_warmup else config.sharpness,
            binarize=config.binarize,
            weight_grad=config.weight_grad,
            head=config.head,
        )

    def set_progress(self, progress: float) -> None:
        """Tell how much of the run is done (0 to 1), for the sharpness warm-up."""
        if self.config.sharpness_warmup:
            self.criterion.sharpness = warm_sharpness(self.config.sharpness, progress)

    def __call__(
        self, images: Tensor, labels: Tensor, regions: Tensor
    ) -> tuple[AttributeLoss, GuidanceTerm]:
        """Both losses, from normalised ``images`` and ``regions`` [N, T, h, w]."""
        targets = self.targets.to(labels.device)
        with self.tap as tap:
            attributes = attribute_loss(self.model, images, labels)
            loss = self.criterion(
                attributes.logits,
                tap,
                regions,
                targets=targets,
                cell_weights=cell_weights(regions, self.config.region_weight),
                where=guided_pairs(labels[:, targets], self.config.guide),
            )
        stats = self.criterion.stats
        return attributes, GuidanceTerm(loss, int(stats.valid), int(stats.dead))
