"""Grad-CAM of a batch, and how well it lies in a region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastcam.cam.maps import grad_cam_maps
from fastcam.cam.tap import ActivationTap
from fastcam.models import ModelSpec


class ScoresNotFinite(ValueError):
    """A classifier's scores are NaN or infinite."""


def check_scores(logits: Tensor) -> None:
    """Refuse logits [N, K] that are NaN or infinite.

    Raises:
        ScoresNotFinite: with how many images have such a score.
    """
    bad = int((~logits.isfinite()).any(1).sum())
    if bad:
        raise ScoresNotFinite(
            f"the scores of {bad} of {len(logits)} images are not finite (NaN or infinity): the "
            "training of this model diverged; train again with a lower learning rate"
        )


@dataclass(frozen=True)
class AttentionMaps:
    """Grad-CAM of a batch.

    logits: [N, K]. cams: [N, T, h, w], normalised to [0, 1]. dead: bool [N, T], all-zero maps.
    """

    logits: Tensor
    cams: Tensor
    dead: Tensor


def attention_maps(
    model: nn.Module, images: Tensor, targets: Sequence[int], spec: ModelSpec
) -> AttentionMaps:
    """Grad-CAM of T attributes for a batch; parameters' ``grad`` and the mode stay as they are.

    Args:
        model: the classifier.
        images: normalised [N, 3, H, W].
        targets: attribute positions, T of them.
        spec: tells the Grad-CAM layer.
    """
    with (
        torch.enable_grad(),
        ActivationTap(model, spec.target_layer, gradient_at=spec.gradient_at) as tap,
    ):
        logits = model(images)
        cams = grad_cam_maps(logits, tap, torch.tensor(targets, device=logits.device))
    return AttentionMaps(logits.detach(), cams, ~cams.flatten(2).any(-1))


def energy_share(cams: Tensor, regions: Tensor) -> Tensor:
    """Share of each map's energy in its region: [N, T] from two [N, T, h, w]; NaN if dead."""
    return (cams * regions).sum((-2, -1)) / cams.sum((-2, -1))


def set_iou(cams: Tensor, regions: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of {cam > threshold} and the region: [N, T]; 0 for a dead map.

    A cell that the region covers in part counts with that part, in intersection and union.
    """
    inside = (cams > threshold).to(regions.dtype)
    intersection = (inside * regions).sum((-2, -1))
    union = (inside + regions - inside * regions).sum((-2, -1))
    return torch.where(union > 0, intersection / union.clamp(min=1e-12), 0)
