"""The mask channels that matter most for an attribute (Kimura & Tanaka, Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fastcam._util import checks as check
from fastcam._util.modules import evaluating
from fastcam._util.progress import Report
from fastcam.analysis.subject import attention_network, check_faces
from fastcam.data.labelled import attribute_index
from fastcam.evaluation.splits import Prepared
from fastcam.models import AttentionNetwork, Checkpoint
from fastcam.report import Table
from fastcam.report.figure import literal, new_figure


@dataclass(frozen=True)
class AttributeMasks:
    """Masks of one attribute.

    Attributes:
        name: the attribute.
        images: how many images the means are over.
        changes: mean over these images of the logit's change by every channel's mask, ``[C]``.
        everything: mean change by all masks together.
        logit_spread: standard deviation of the logit over these images; 0 for one image.
        mask_mean, mask_spread: over all channels, cells and images.
        shown: images to draw, uint8 ``[n,H,W,3]``.
        channels: ids of the top channels for each of them, n lists.
        maps: their masks, ``[n,top,h,w]``.
        map_changes: the logit's change by each of them in that image, ``[n,top]``.
    """

    name: str
    images: int
    changes: Tensor
    everything: float
    logit_spread: float
    mask_mean: float
    mask_spread: float
    shown: np.ndarray
    channels: list[list[int]]
    maps: Tensor
    map_changes: Tensor


@dataclass(frozen=True)
class TopMasks:
    """Masks of some attributes, and how many channels of each are shown."""

    parts: list[AttributeMasks]
    top: int

    def tables(self) -> list[Table]:
        """One row an attribute: its top channels, and what all masks do together."""
        header = ["attribute", *(f"top {i + 1}" for i in range(self.top))]
        header += ["all masks", "logit's spread", "mask, mean ± spread", "images"]
        rows = []
        for p in self.parts:
            best = p.changes.abs().argsort(descending=True, stable=True)[: self.top].tolist()
            cells = [f"{c} ({p.changes[c]:+.3f})" for c in best]
            mask = f"{p.mask_mean:.2f} ± {p.mask_spread:.2f}"
            rows.append([p.name, *cells, f"{p.everything:+.3f}", f"{p.logit_spread:.3f}", mask,
                         str(p.images)])  # fmt: skip
        title = "mask channels (mean change of the attribute's logit by the channel's mask)"
        return [Table(header, rows, title)]

    def figure(self) -> Figure:
        """One row an image: the input, then its top masks, each on its own scale."""
        rows = [(p, i) for p in self.parts for i in range(len(p.shown))]
        figure = new_figure(1.75 * (1 + self.top) + 0.6, 2.05 * len(rows) + 0.3)
        axes = figure.subplots(len(rows), 1 + self.top, squeeze=False)
        for line, (part, i) in zip(axes, rows, strict=True):
            _picture(line[0], part.shown[i])
            line[0].set_ylabel(literal(part.name), fontsize=8)
            for axis, channel, map_, change in zip(
                line[1:], part.channels[i], part.maps[i], part.map_changes[i], strict=True
            ):
                low, high = float(map_.min()), float(map_.max())
                _picture(axis, map_.numpy(), cmap="viridis", vmin=low, vmax=high)
                axis.set_title(f"channel {channel}: {change:+.3f}", fontsize=8)
                axis.set_xlabel(f"mask {low:.2f} to {high:.2f}", fontsize=7, labelpad=2)
        axes[0, 0].set_title("input", fontsize=8)
        return figure

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            p.name: {
                "images": p.images,
                "changes": p.changes.tolist(),
                "all_masks": p.everything,
                "logit_spread": p.logit_spread,
                "mask_mean": p.mask_mean,
                "mask_spread": p.mask_spread,
                "shown": p.channels,
            }
            for p in self.parts
        }


def mask_changes(network: AttentionNetwork, images: Tensor, attributes: Sequence[int]) -> Tensor:
    """What the logit of attribute t loses when channel c of its mask is set to zero.

    That is logit(T = 1 + M) − logit(T = 1 + M, but T = 1 in channel c). Where the classifiers are
    linear in the attended features (``classifier_hidden=0``) it is w[t,c]·mean_p(M[t,c,p]·F[c,p]):
    the changes of several channels add up, and their signs are those of w in every image.

    Args:
        network: in eval mode, with the trained T = 1 + M.
        images: normalised ``[N,3,H,W]``.
        attributes: T indices.

    Returns:
        ``[N,T,C]``; the importance of a channel is its absolute value.
    """
    masks = network.masks(images, attributes)
    return _changes(network, network.features(images), masks, attributes)[0]


def _changes(
    network: AttentionNetwork, features: Tensor, masks: Tensor, attributes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Changes by each channel ``[N,T,C]`` and by all together ``[N,T]``; logits ``[N,T]``."""
    cells = features.shape[-2] * features.shape[-1]
    emphasis = torch.einsum("ntchw,nchw->ntc", masks, features) / cells
    plain = features.mean((-2, -1)).unsqueeze(1)
    attended = plain + emphasis
    without = attended - torch.diag_embed(emphasis).movedim(-2, 0)  # [C,N,T,C]
    logits = network.binary(attended, attributes)
    changes = logits - network.binary(without, attributes)
    all_together = logits - network.binary(plain.expand_as(attended), attributes)
    return changes.movedim(0, -1), all_together, logits


def top_masks(
    checkpoint: Checkpoint,
    faces: Prepared,
    attributes: Sequence[str],
    *,
    images: int = 64,
    shown: int = 2,
    top: int = 3,
    per_image: bool = False,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: Report | None = None,
) -> TopMasks:
    """The masks with the highest importance for each attribute, see :func:`mask_changes`.

    Args:
        checkpoint: of an attention network.
        faces: images at its input size.
        attributes: names.
        images: importance is a mean over the first so many images that have the attribute.
        shown: how many of them are drawn.
        top: channels shown.
        per_image: choose the channels for each drawn image by itself, not by the mean.
        batch_size: images in one forward.
        device: where the network runs; None: where it is.
        progress: called with (what, done, total).

    Raises:
        TypeError, ValueError: faces that do not fit the checkpoint, an unknown attribute, one that
            no image has, or a number below 1.
    """
    network = attention_network(checkpoint)
    check_faces(checkpoint, faces)
    for name, value in {
        "images": images, "shown": shown, "top": top, "batch_size": batch_size,
    }.items():  # fmt: skip
        check.at_least(name, value, 1)
    if top > network.channels:
        raise ValueError(f"top: expected at most {network.channels} channels, got {top}")
    if not attributes:
        raise ValueError("attributes: expected at least one name")
    targets = [attribute_index(checkpoint.attributes, name) for name in attributes]
    parts = []
    for done, (name, target) in enumerate(zip(attributes, targets, strict=True), 1):
        rows = (faces.labels[:, target] > 0.5).nonzero().flatten()[:images].tolist()
        if not rows:
            raise ValueError(f"attributes: none of the {len(faces)} images has {name}")
        pixels = torch.stack([faces[i]["image"].as_subclass(Tensor) for i in rows])
        parts_of_images = []
        with evaluating(network, device) as device, torch.no_grad():
            for part in pixels.split(batch_size):
                normal = checkpoint.preprocessing.normalize(part.to(device))
                found = network.masks(normal, [target])
                effects = _changes(network, network.features(normal), found, [target])
                parts_of_images.append([x[:, 0].cpu() for x in (found, *effects)])
        masks, changes, everything, logits = map(torch.cat, zip(*parts_of_images, strict=True))
        by_image = changes[:shown] if per_image else changes.mean(0).expand(len(rows[:shown]), -1)
        channels = by_image.abs().argsort(dim=1, descending=True, stable=True)[:, :top]
        cells = channels[..., None, None].expand(-1, -1, *masks.shape[-2:])
        parts.append(
            AttributeMasks(
                name,
                len(rows),
                changes.mean(0),
                float(everything.mean()),
                float(logits.std(correction=0)),
                float(masks.mean()),
                float(masks.std(correction=0)),
                pixels[:shown].permute(0, 2, 3, 1).numpy(),
                channels.tolist(),
                masks[:shown].gather(1, cells),
                changes[:shown].gather(1, channels),
            )
        )
        if progress is not None:
            progress("drawing masks", done, len(targets))
    return TopMasks(parts, top)


def _picture(axis: Axes, pixels: np.ndarray, **options: Any) -> None:
    axis.imshow(pixels, interpolation="nearest", **options)
    axis.set_xticks([])
    axis.set_yticks([])
