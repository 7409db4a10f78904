"""What a classifier's score relies on: how far it drops when a part of the image is hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from fastcam._util.modules import evaluating
from fastcam._util.progress import Count
from fastcam.data import CelebA, DataFolder, FaceFolder, MaskedFolder, hide, open_folder
from fastcam.data.batches import Batch
from fastcam.data.hiding import Fill
from fastcam.data.labelled import AnyRegion, attribute_index
from fastcam.evaluation.bootstrap import bootstrap_means
from fastcam.evaluation.cam_maps import check_scores
from fastcam.evaluation.classes import targets_of
from fastcam.evaluation.drop_samples import FirstBatches, FixedSample, present_in
from fastcam.evaluation.given import check_named
from fastcam.evaluation.reliance_result import HiddenRegion, Reliance, relied_share
from fastcam.evaluation.splits import Prepared, prepare_split
from fastcam.models import Checkpoint
from fastcam.ops import checks as check

#: How many images are measured unless told otherwise; each costs one forward a hidden region.
IMAGES = 500


class Drops(NamedTuple):
    """Scores [N] of N images as they are, and how far each drops when a part is hidden [M, N]."""

    scores: Tensor
    drops: Tensor


def score_drops(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor,
    masks: Tensor,
    target: int | Tensor = 0,
    *,
    fill: Fill | Tensor = "mean",
) -> Drops:
    """Score minus score with a part of the image hidden, for any masks.

    Costs one forward of the images as they are and one for each of the M masks, without a graph. A
    module is in eval mode meanwhile.

    Args:
        model: gives scores [N, K] of images; of images as they are given here, so normalised ones
            for a network that takes such.
        images: floating [N, C, H, W].
        masks: [M, N, H, W], bool or floating in [0, 1], on the images' device: the share of each
            pixel that is hidden.
        target: which of the K scores: a whole number in [0, K - 1], or integers [N], one for each
            image (its class, say).
        fill: what is shown in place of what is hidden: see :func:`fastcam.data.hide`, or images
            [N, C, H, W].

    Returns:
        The scores [N] and the drops [M, N]; a drop above 0 says that the part raised the score.

    Raises:
        TypeError: images that are not floating, masks that are neither that nor bool, targets that
            are no whole numbers, or a model that gives no tensor.
        ValueError: shapes that do not fit, masks beyond [0, 1] (NaN included), no such target, an
            unknown fill, one image alone to swap with.
    """
    if not images.is_floating_point():
        raise TypeError(f"images: expected a floating dtype, got {images.dtype}")
    check.shares("masks", masks)
    if images.dim() != 4 or masks.dim() != 4 or masks.shape[1:] != images[:, 0].shape:
        raise ValueError(
            "images and masks: expected [N,C,H,W] and [M,N,H,W], got "
            f"{list(images.shape)} and {list(masks.shape)}"
        )
    _check_target(target, len(images))
    if not isinstance(fill, Tensor):
        # Hiding all of an image leaves what fills it: computed once for all masks.
        filling = hide(images, torch.ones_like(images[:, 0]), fill)
    elif fill.shape != images.shape:
        raise ValueError(
            f"fill: expected the images' shape {list(images.shape)}, got {list(fill.shape)}"
        )
    else:
        filling = fill
    with evaluating(model) if isinstance(model, nn.Module) else nullcontext(), torch.no_grad():
        scores = _score(model, images, target)
        drops = scores.new_empty(len(masks), len(images))
        for row, mask in zip(drops, masks, strict=True):
            hidden = torch.lerp(images, filling, mask.to(images).unsqueeze(1))
            row.copy_(scores - _score(model, hidden, target))
    return Drops(scores, drops)


def _check_target(target: int | Tensor, images: int) -> None:
    if not isinstance(target, Tensor):
        check.whole("target", target, 0)
    elif target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"target: expected whole numbers, got {target.dtype}")
    elif target.shape not in ((), (images,)):
        raise ValueError(
            f"target: expected one score for all images, or one for each [{images}], got shape "
            f"{list(target.shape)}"
        )


def _score(model: Callable[[Tensor], Tensor], images: Tensor, target: int | Tensor) -> Tensor:
    """The score [N] that is meant of those that a model gives."""
    scores = model(images)
    if not isinstance(scores, Tensor):
        raise TypeError(f"model: expected one that gives scores [N,K], got {type(scores).__name__}")
    if scores.dim() != 2 or len(scores) != len(images):
        raise ValueError(
            f"model: expected one that gives scores [N,K], got {list(scores.shape)} of"
            f" {len(images)} images"
        )
    index = torch.as_tensor(target, device=scores.device).long().expand(len(scores))
    wrong = index[(index < 0) | (index >= scores.shape[1])]
    if len(wrong):
        raise ValueError(
            f"target: expected a whole number in [0, {scores.shape[1] - 1}], got {int(wrong[0])}"
        )
    return scores.gather(1, index.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class RegionDrops:
    """Drops of one attribute's score for N images and M hidden regions, image by image.

    Attributes:
        attribute: whose score (logit) it is.
        names: of the hidden regions; with a guided region the first is that one, and the second all
            but it.
        region: the guided region, or None.
        fill: what was shown in place of what was hidden.
        scores: float32 [N], of the images as they are.
        drops: float32 [M, N], score minus score with the region hidden.
        present: bool [N], images that have the attribute.
        visible: bool [M, N], images in which the region lies. What lies outside a region counts as
            visible where the region is.
        inside: float32 [M], the share of each hidden region that lies in the guided one, over the
            images that show both; 0 without one, and where no image does.
        weights: float64 [N], sum 1: what an image stands for, where the sample holds more images
            with the attribute (or fewer) than the split does.
    """

    attribute: str
    names: tuple[str, ...]
    region: str | None
    fill: str
    scores: Tensor
    drops: Tensor
    present: Tensor
    visible: Tensor
    inside: Tensor
    weights: Tensor

    @property
    def deviation(self) -> float:
        """Standard deviation of the unhidden images' score over the split; 0 for rounding alone."""
        scores = self.scores.double()
        mean = (self.weights * scores).sum()
        found = float((self.weights * (scores - mean).square()).sum().sqrt())
        rounding = 1e-6 * float(scores.abs().max())
        return found if found > rounding else 0.0

    def in_deviations(self) -> Tensor:
        """The drops over :attr:`deviation`: float64 [M, N]; NaN if the score is constant."""
        deviation = self.deviation
        return self.drops.double() / (deviation if deviation > 0 else torch.nan)

    def index(self, name: str) -> int:
        """Row of a hidden region; KeyError if there is none of that name."""
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(name) from None

    def counted(self, name: str) -> Tensor:
        """Images that have the attribute and show the region: bool [N]."""
        return self.present & self.visible[self.index(name)]

    def columns(self) -> np.ndarray:
        """Float64 [N, 3 + 2M], of whose means :func:`mean_drops` makes the mean drops."""
        scores, deviation = self.scores.double(), self.deviation or torch.nan
        units = (scores - (self.weights * scores).sum()) / deviation
        moments = torch.stack([torch.ones_like(units), units, units.square()]) * self.weights
        counted = (self.present & self.visible).double()
        drops = self.in_deviations().where(counted > 0, 0)
        return torch.cat([moments * len(scores), counted, drops]).T.numpy()

    def summarize(self) -> Reliance:
        """Means and intervals."""
        drops = self.in_deviations()
        drawn = mean_drops(bootstrap_means(self.columns())).T
        hidden = []
        for name, row, seen, draws in zip(self.names, drops, self.visible, drawn, strict=True):
            weights = self.weights * seen
            change = float((weights * row.abs()).sum() / weights.sum())
            counted = row[self.counted(name)].numpy()
            hidden.append(HiddenRegion.of(name, counted, draws, change))
        share = None
        if self.region is not None:
            rows = drops[:2, self.counted(self.names[0])]
            share = relied_share(rows[0].numpy(), rows[1].numpy())
        return Reliance(
            attribute=self.attribute,
            region=self.region,
            fill=self.fill,
            images=len(self.scores),
            deviation=self.deviation,
            hidden=tuple(hidden),
            share=share,
        )


def mean_drops(means: np.ndarray) -> np.ndarray:
    """Mean drops over the images that count, in deviations, of other images: [S, M].

    Bootstrap draws vary in the deviation, too: left as it is, intervals would be too narrow where
    all images drop alike, and too wide where the highest scores drop furthest.

    Args:
        means: of :meth:`RegionDrops.columns`, [S, 3 + 2M].

    Returns:
        NaN where the score is constant, and where no image counts.
    """
    first, second = (means[:, i] / means[:, 0] for i in (1, 2))
    variance = second - first**2
    deviation = np.sqrt(np.where(variance > 1e-12, variance, np.nan))  # less is rounding
    counted, drops = np.split(means[:, 3:], 2, axis=1)
    return drops / np.where(counted > 0, counted, np.nan) / deviation[:, None]


def region_drops(
    checkpoint: Checkpoint,
    faces: CelebA | Prepared | str | Path | DataFolder | Iterable[Batch],
    *,
    attribute: str,
    region: str | AnyRegion | int | None = None,
    others: Sequence[str | AnyRegion | int] | None = None,
    images: int = IMAGES,
    fill: Fill = "mean",
    split: str = "test",
    landmarks: str | Path | None = None,
    regions: str | Path | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    cache: bool | None = None,
    workers: int = 2,
    progress: Count | None = None,
) -> RegionDrops:
    """The drops of a classifier's score, image by image; arguments as in :func:`reliance`."""
    attribute_index(checkpoint.judged, attribute, "the checkpoint judges")
    check.one_of("fill", fill, get_args(Fill))
    if isinstance(faces, str | Path | FaceFolder | MaskedFolder):
        folder = open_folder(faces, landmarks=landmarks, regions=regions)
        wanted = [] if region is None else [region]
        wanted += folder.parts if others is None else others
        for each in wanted:
            check_named(each)
        faces = prepare_split(
            checkpoint, folder, split, regions=[*map(str, wanted)], cache=cache, workers=workers
        )
    kind: Any = FixedSample if isinstance(faces, CelebA | Prepared) else FirstBatches
    sample: FirstBatches | FixedSample = kind(checkpoint, faces, attribute, region, others, images)
    guided, total = sample.guided, sample.count
    if fill == "swap" and total == 1:
        raise ValueError("images: expected two or more to swap parts between, got one")
    # To swap, a batch needs the image after its last one (after the last one of all, the first).
    extra = int(fill == "swap")
    parts: list[tuple[Tensor, ...]] = []
    done = 0
    with evaluating(checkpoint.model, device) as device:
        for pixels, grids, labels in sample.batches(batch_size, workers, extra):
            shown = checkpoint.preprocessing.ready(pixels.to(device))
            count = len(shown) - extra
            masks = grids[:count].transpose(0, 1)
            visible = masks.flatten(2).any(-1)
            if guided:
                masks = torch.cat([masks[:1], 1 - masks[:1], masks[1:]])
                visible = torch.cat([visible[:1], visible])
            found = score_drops(
                lambda images: checkpoint.scores(checkpoint.model(images)), shown[:count],
                masks.to(device), _target(checkpoint, attribute, labels[:count]),
                fill=shown[1:] if extra else fill,
            )  # fmt: skip
            areas = masks.sum((-2, -1))
            common = torch.zeros_like(areas)
            if guided:
                common = torch.minimum(masks, masks[:1]).sum((-2, -1))
                areas *= visible[:1]  # an image that lacks the guided region says nothing of both
            present = present_in(checkpoint, attribute, labels[:count])
            parts.append((found.scores.cpu(), found.drops.cpu(), visible, common, areas, present))
            done += count
            if progress is not None:
                progress(done, total or done)
    if not parts:
        raise ValueError("there are no images to measure")
    scores, drops, visible, common, areas, present = (
        torch.cat(column, -1) for column in zip(*parts, strict=True)
    )
    check_scores(torch.stack([scores, *(scores - drops)], 1))
    names = [*sample.names]
    if guided:
        names.insert(1, f"all but {names[0]}")
    return RegionDrops(
        attribute=attribute,
        names=tuple(names),
        region=sample.names[0] if guided else None,
        fill=fill,
        scores=scores.float(),
        drops=drops.float(),
        present=present,
        visible=visible,
        inside=common.sum(1) / areas.sum(1).clamp(min=1e-12),
        weights=_weights(present if sample.present is None else sample.present, present),
    )


def _target(checkpoint: Checkpoint, attribute: str, labels: Tensor) -> Tensor:
    """The position of the attribute, of each image [N]."""
    places = torch.as_tensor(targets_of(checkpoint, [attribute], labels))
    return places.expand(len(labels), 1).squeeze(1)


def _weights(present: Tensor, chosen: Tensor) -> Tensor:
    """What each chosen image stands for, so that both kinds have their share of the split.

    From which images have the attribute: all ``present``, and the ``chosen`` ones.
    """
    weights = torch.empty(len(chosen), dtype=torch.float64)
    for kind in (True, False):
        here = chosen == kind
        weights[here] = int((present == kind).sum()) / max(int(here.sum()), 1)
    return weights / weights.sum()


def reliance(
    checkpoint: Checkpoint,
    faces: CelebA | Prepared | str | Path | DataFolder | Iterable[Batch],
    *,
    attribute: str,
    region: str | AnyRegion | int | None = None,
    others: Sequence[str | AnyRegion | int] | None = None,
    images: int = IMAGES,
    fill: Fill = "mean",
    split: str = "test",
    landmarks: str | Path | None = None,
    regions: str | Path | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    cache: bool | None = None,
    workers: int = 2,
    progress: Count | None = None,
) -> Reliance:
    """How far the score of an attribute drops when a region is hidden.

    The regions are hidden one after another, pixel by pixel as they lie on each face; where a
    region covers a pixel in part, that pixel is hidden in part. The images are a fixed sample, half
    of them with the attribute as far as there are as many.

    Args:
        checkpoint: the classifier.
        faces: a folder that :func:`fastcam.data.open_folder` can read; images with labels, which
            must have the classifier's input size; or any iterable of
            :class:`fastcam.data.batches.Batch`, of which the first images are taken, with regions
            best at the images' resolution.
        attribute: whose score (logit) is meant; of classes the margin, also of ``own_class``, that
            of each image.
        region: the guided region; it and all but it are hidden first. Of batches its position.
        others: further regions to hide, by default each that the data have; of faces each of the
            ten, and the three pairs. Of batches their positions.
        images: at most so many.
        fill: ``"mean"``, ``"blur"`` or ``"swap"``, see :func:`fastcam.data.hide`. The parts are
            swapped with the next image of the sample: one without the attribute for one with it, as
            far as there are as many.
        split, landmarks, regions, cache: of a folder, see :func:`fastcam.evaluation.evaluate`.
        batch_size: images in one forward.
        device: where the classifier runs; None: where it is.
        workers: processes that decode images which are not in memory.
        progress: called with (done, total) images.

    Raises:
        ValueError: an unknown attribute, region or fill, no region, fewer than 1 image, data that
            do not fit the classifier, labels beyond [0, 1] or NaN, or scores that are not finite.
        TypeError: of images with labels a region's position; of batches one that is no dict of
            tensors, or lacks one.
        FileNotFoundError: of a folder: data are missing.
    """
    return region_drops(
        checkpoint, faces, attribute=attribute, region=region, others=others, images=images,
        fill=fill, split=split, landmarks=landmarks, regions=regions, batch_size=batch_size,
        device=device, cache=cache, workers=workers, progress=progress,
    ).summarize()  # fmt: skip
