"""What a classifier's score relies on: how far it drops when a part of the image is hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fastcam._util import checks as check
from fastcam._util.modules import evaluating
from fastcam._util.progress import Count
from fastcam.data import CelebA, PreparedFaces, hide
from fastcam.data.batches import Collate, region_grids
from fastcam.data.celeba import attribute_index
from fastcam.data.hiding import Fill
from fastcam.evaluation.cam_maps import check_scores
from fastcam.evaluation.reliance_result import HiddenRegion, Reliance, relied_share
from fastcam.evaluation.splits import prepared_for
from fastcam.models import Checkpoint
from fastcam.regions import REGION_NAMES, Region

#: How many images are measured unless told otherwise; each costs one forward a hidden region.
IMAGES = 500
#: What is hidden besides the guided region: each of the ten, and the pairs (what one eye tells the
#: other tells as well, so that hiding one alone may cost nothing).
OTHERS = (
    *REGION_NAMES,
    "left_eyebrow,right_eyebrow",
    "left_eye,right_eye",
    "left_cheek,right_cheek",
)


class Drops(NamedTuple):
    """Scores [N] of N images as they are, and how far each drops when a part is hidden [M, N]."""

    scores: Tensor
    drops: Tensor


def score_drops(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor,
    masks: Tensor,
    target: int = 0,
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
        target: which of the K scores.
        fill: what is shown in place of what is hidden: see :func:`fastcam.data.hide`, or images
            [N, C, H, W].

    Returns:
        The scores [N] and the drops [M, N]; a drop above 0 says that the part raised the score.

    Raises:
        TypeError: images that are not floating.
        ValueError: shapes that do not fit, an unknown fill, one image alone to swap with.
    """
    if not images.is_floating_point():
        raise TypeError(f"images: expected a floating dtype, got {images.dtype}")
    if images.dim() != 4 or masks.dim() != 4 or masks.shape[1:] != images[:, 0].shape:
        raise ValueError(
            "images and masks: expected [N,C,H,W] and [M,N,H,W], got "
            f"{list(images.shape)} and {list(masks.shape)}"
        )
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
        scores = model(images)[:, target]
        drops = scores.new_empty(len(masks), len(images))
        for row, mask in zip(drops, masks, strict=True):
            hidden = torch.lerp(images, filling, mask.to(images).unsqueeze(1))
            row.copy_(scores - model(hidden)[:, target])
    return Drops(scores, drops)


def stratified_sample(labels: Tensor, count: int) -> Tensor:
    """The first ``count`` images of an order in which those with and without take turns.

    The order depends on the labels alone, so that a smaller sample is the beginning of a larger
    one, and every classifier is asked about the same images. Where one kind runs out, the other
    goes on alone.

    Args:
        labels: [N], above 0.5 where an image has the attribute.
        count: at least 1.

    Returns:
        int64 positions, ``min(count, N)`` of them.
    """
    check.at_least("images", count, 1)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    present = labels[order] > 0.5
    turn = torch.empty(len(order), dtype=torch.int64)
    turn[present] = 2 * torch.arange(int(present.sum()))
    turn[~present] = 2 * torch.arange(int((~present).sum())) + 1
    return order[turn.argsort()][:count]


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
        inside: float32 [M], the share of each hidden region that lies in the guided one (0 without
            one), over the images that show both.
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

    def summarize(self) -> Reliance:
        """Means and intervals."""
        drops = self.in_deviations()
        hidden = []
        for name, row, seen in zip(self.names, drops, self.visible, strict=True):
            weights = self.weights * seen
            change = float((weights * row.abs()).sum() / weights.sum())
            hidden.append(HiddenRegion.of(name, row[self.counted(name)].numpy(), change))
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


def region_drops(
    checkpoint: Checkpoint,
    faces: CelebA | PreparedFaces,
    *,
    attribute: str,
    region: str | Region | None = None,
    others: Sequence[str | Region] = OTHERS,
    images: int = IMAGES,
    fill: Fill = "mean",
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    workers: int = 2,
    progress: Count | None = None,
) -> RegionDrops:
    """The drops of a classifier's score, image by image; arguments as in :func:`reliance`."""
    target = attribute_index(checkpoint.attributes, attribute)
    check.one_of("fill", fill, get_args(Fill))
    guided = Region.parse(region) if isinstance(region, str) else region
    rest = [Region.parse(r) if isinstance(r, str) else r for r in others]
    named = dict.fromkeys([*([guided] if guided is not None else []), *rest])
    if not named:
        raise ValueError("others: expected one region or more to hide, got none")
    faces = prepared_for(checkpoint, faces)
    present = faces.labels[:, target] > 0.5
    chosen = stratified_sample(faces.labels[:, target], images)
    rows = chosen.tolist()
    if fill == "swap" and len(rows) == 1:
        raise ValueError("images: expected two or more to swap parts between, got one")
    # To swap, a batch needs the image after its last one (after the last one of all, the first).
    extra = int(fill == "swap")
    batches = [
        [*rows[i : i + batch_size], *rows[min(i + batch_size, len(rows)) % len(rows) :][:extra]]
        for i in range(0, len(rows), batch_size)
    ]
    loader = DataLoader(
        faces,
        batch_sampler=batches,
        num_workers=0 if faces.cached else workers,
        collate_fn=Collate(),
    )
    pixels = (faces.size, faces.size)
    parts: list[tuple[Tensor, ...]] = []
    done = 0
    with evaluating(checkpoint.model, device):
        for batch in loader:
            shown = checkpoint.preprocessing.normalize(batch["image"].to(device))
            count = len(shown) - extra
            grids = region_grids(list(named), batch["landmarks"][:count], pixels, pixels)
            masks = grids.transpose(0, 1)
            visible = masks.flatten(2).any(-1)
            if guided is not None:
                masks = torch.cat([masks[:1], 1 - masks[:1], masks[1:]])
                visible = torch.cat([visible[:1], visible])
            found = score_drops(
                checkpoint.model, shown[:count], masks.to(device), target,
                fill=shown[1:] if extra else fill,
            )  # fmt: skip
            areas = masks.sum((-2, -1))
            common = torch.minimum(masks, masks[:1]).sum((-2, -1)) if guided else 0 * areas
            parts.append((found.scores.cpu(), found.drops.cpu(), visible, common, areas))
            done += count
            if progress is not None:
                progress(done, len(rows))
    scores, drops, visible, common, areas = (
        torch.cat(column, -1) for column in zip(*parts, strict=True)
    )
    check_scores(torch.stack([scores, *(scores - drops)], 1))
    names = [str(part) for part in named]
    if guided is not None:
        names.insert(1, f"all but {guided}")
    return RegionDrops(
        attribute=attribute,
        names=tuple(names),
        region=None if guided is None else str(guided),
        fill=fill,
        scores=scores.float(),
        drops=drops.float(),
        present=present[chosen],
        visible=visible,
        inside=common.sum(1) / areas.sum(1).clamp(min=1e-12),
        weights=_weights(present, chosen),
    )


def _weights(present: Tensor, chosen: Tensor) -> Tensor:
    """What each chosen image stands for, so that both kinds have their share of the split."""
    weights = torch.empty(len(chosen), dtype=torch.float64)
    for kind in (True, False):
        here = present[chosen] == kind
        weights[here] = int((present == kind).sum()) / max(int(here.sum()), 1)
    return weights / weights.sum()


def reliance(
    checkpoint: Checkpoint,
    faces: CelebA | PreparedFaces,
    *,
    attribute: str,
    region: str | Region | None = None,
    others: Sequence[str | Region] = OTHERS,
    images: int = IMAGES,
    fill: Fill = "mean",
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    workers: int = 2,
    progress: Count | None = None,
) -> Reliance:
    """How far the score of an attribute drops when a region is hidden.

    The regions are hidden one after another, pixel by pixel as they lie on each face; where a
    region covers a pixel in part, that pixel is hidden in part. The images are a fixed sample
    (:func:`stratified_sample`), half of them with the attribute as far as there are as many.

    Args:
        checkpoint: the classifier.
        faces: images with labels; a :class:`fastcam.data.PreparedFaces` must have the classifier's
            input size.
        attribute: whose score (logit) is meant.
        region: the guided region; it and all but it are hidden first.
        others: further regions to hide, by default each of the ten and the three pairs.
        images: at most so many.
        fill: ``"mean"``, ``"blur"`` or ``"swap"``, see :func:`fastcam.data.hide`. The parts are
            swapped with the next image of the sample: one without the attribute for one with it, as
            far as there are as many.
        batch_size: images in one forward.
        device: where the classifier runs.
        workers: processes that decode images which are not in memory.
        progress: called with (done, total) images.

    Raises:
        ValueError: an unknown attribute, region or fill, no region, fewer than 1 image, data that
            do not fit the classifier, or scores that are not finite.
    """
    return region_drops(
        checkpoint, faces, attribute=attribute, region=region, others=others, images=images,
        fill=fill, batch_size=batch_size, device=device, workers=workers, progress=progress,
    ).summarize()  # fmt: skip
