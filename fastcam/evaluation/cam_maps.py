"""Grad-CAM of a batch, and how well it lies in a region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastcam.cam.maps import grad_cam_maps
from fastcam.models import ModelSpec
from fastcam.ops import checks as check


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
    model: nn.Module,
    images: Tensor,
    targets: Sequence[int] | Tensor,
    spec: ModelSpec,
    scores: Callable[[Tensor], Tensor] | None = None,
) -> AttentionMaps:
    """Grad-CAM of T attributes for a batch; parameters' ``grad`` and the mode stay as they are.

    Args:
        model: the classifier.
        images: normalised [N, 3, H, W].
        targets: attribute positions, T of them; or [N, T], of each image its own.
        spec: tells the Grad-CAM layer.
        scores: of the logits, whose maps are drawn, see
            :meth:`fastcam.models.Checkpoint.scores`; None takes the logits.
    """
    with torch.enable_grad(), spec.tap(model) as tap:
        logits = model(images)
        chosen = torch.as_tensor(targets, device=logits.device)
        cams = grad_cam_maps(scores(logits) if scores else logits, tap, chosen)
    return AttentionMaps(logits.detach(), cams, ~cams.flatten(2).any(-1))


def _same_shape(cams: Tensor, regions: Tensor) -> None:
    """ValueError for regions of another shape: [N,h,w] would be paired with every image's map."""
    if regions.shape != cams.shape:
        hint = ""
        if cams.dim() == 4 and regions.shape == cams[:, 0].shape:
            hint = "; of one target: regions[:, None]"
            if cams.shape[1] > 1:
                hint = "; one for all targets: regions[:, None].expand_as(cams)"
        raise ValueError(
            f"regions: expected shape {list(cams.shape)} (of cams), got {list(regions.shape)}{hint}"
        )


def _shares(cams: Tensor, regions: Tensor) -> Tensor:
    """Regions that are bool, or shares in [0, 1], as shares; TypeError or ValueError for others."""
    check.shares("regions", regions)
    _same_shape(cams, regions)
    return regions.to(cams.dtype) if regions.dtype == torch.bool else regions


def _nan_unless_finite(values: Tensor, cams: Tensor) -> Tensor:
    """Values [N, T], NaN where the map is not finite: a comparison with NaN would pass for one."""
    return torch.where(cams.isfinite().all(-1).all(-1), values, torch.nan)


def energy_share(cams: Tensor, regions: Tensor) -> Tensor:
    """Share of each map's energy in its region: [N, T] from two [N, T, h, w]; NaN if dead.

    Raises:
        TypeError, ValueError: regions that are neither bool nor floating in [0, 1], or of another
            shape than the maps.
    """
    regions = _shares(cams, regions)
    return (cams * regions).sum((-2, -1)) / cams.sum((-2, -1))


def set_iou(cams: Tensor, regions: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of {cam > threshold} and the region: [N, T]; 0 for a dead map.

    A cell that the region covers in part counts with that part, in intersection and union. NaN for
    a map that is not finite.

    Raises:
        TypeError, ValueError: as :func:`energy_share`.
    """
    regions = _shares(cams, regions)
    inside = (cams > threshold).to(regions.dtype)
    intersection = (inside * regions).sum((-2, -1))
    union = (inside + regions - inside * regions).sum((-2, -1))
    found = torch.where(union > 0, intersection / union.clamp(min=1e-12), 0)
    return _nan_unless_finite(found, cams)


def size_corrected_energy(cams: Tensor, regions: Tensor) -> Tensor:
    """Share of each map's energy in its region over the region's share of the area: [N, T].

    From two [N, T, h, w]. 1 for a map that is the same everywhere, so that small and large regions
    compare; NaN for a dead map and for a region without area.

    Source:
        Kohlbrenner et al., "Towards Best Practice in Explaining Neural Network Decisions with
        LRP", weighted attribution localisation (μ times total area over the object's).

    Raises:
        TypeError, ValueError: as :func:`energy_share`.
    """
    regions = _shares(cams, regions)
    return energy_share(cams, regions) / regions.mean((-2, -1))


def peak_in_region(cams: Tensor, regions: Tensor) -> Tensor:
    """Whether each map's peak lies in its region: 1 or 0, [N, T] from two [N, T, h, w].

    The peak is the first of the largest cells, row by row. A cell lies in the region if that covers
    at least half of it; a region too small to cover half of any cell lies in the cells that it
    covers most. 0 for a dead map and for a region without area, NaN for a map that is not finite.

    Source:
        Zhang et al., "Top-down Neural Attention by Excitation Backprop" (the pointing game), on the
        map's own cells and without their tolerance of 15 pixels.

    Raises:
        TypeError, ValueError: as :func:`energy_share`.
    """
    regions = _shares(cams, regions)
    cells, cover = cams.flatten(2), regions.flatten(2)
    peak, most = cells.amax(-1, keepdim=True), cover.amax(-1)
    positions = torch.arange(cells.shape[-1], device=cells.device)
    # argmax does not promise the first of several.
    first = torch.where(cells == peak, positions, positions[-1]).amin(-1, keepdim=True)
    hit = cover.gather(-1, first).squeeze(-1) >= most.clamp(max=0.5)
    found = (hit & (peak.squeeze(-1) > 0) & (most > 0)).to(cams.dtype)
    return _nan_unless_finite(found, cams)


def attention_iou(cams: Tensor, regions: Tensor) -> Tensor:
    """Likeness of each map and its region as distributions: [N, T] in [0, 1] from two [N, T, h, w].

    With both divided by their sums, Σ cam·region over Σ ((cam + region)/2)²: 1 where they are the
    same, 0 where they do not meet. Needs no threshold, and neither the map's scale nor the region's
    matters. 0 for a dead map and for a region without area.

    Source:
        Serianni et al., "Attention IoU: Examining Biases in CelebA using Attention Maps".

    Raises:
        ValueError: regions of another shape than the maps.
    """
    _same_shape(cams, regions)
    tiny = torch.finfo(cams.dtype).tiny
    first, second = (x / x.sum((-2, -1), keepdim=True).clamp(min=tiny) for x in (cams, regions))
    squared = ((first + second) / 2).square().sum((-2, -1))
    return (first * second).sum((-2, -1)) / squared.clamp(min=tiny)
