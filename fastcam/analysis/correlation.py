"""Correlations among channels and among attributes (Kimura & Tanaka, Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from fastcam._util import checks as check
from fastcam._util.modules import evaluating
from fastcam._util.progress import Report
from fastcam.analysis import paper
from fastcam.analysis.subject import attention_network, batches
from fastcam.data.labelled import attribute_index
from fastcam.evaluation.splits import Prepared
from fastcam.models import AttentionNetwork, Checkpoint
from fastcam.report import Table
from fastcam.report.figure import literal, new_figure
from fastcam.report.numbers import MISSING, number

CHANNEL_VALUES = ("attended", "masks", "features")
TOP = 5


@dataclass(frozen=True)
class Correlations:
    """Pearson correlations over N images; NaN for what is the same in all of them.

    Attributes:
        of: what stands for a channel, see :func:`correlations`.
        images: N.
        channels: float64 ``[C,C]``.
        names: K attributes.
        attributes: of the binary logits, ``[K,K]``.
        labels: of the labels, ``[K,K]``, to compare with.
        target_channels, target_attributes: whose strongest partners are tabulated.
    """

    of: str
    images: int
    channels: np.ndarray
    names: list[str]
    attributes: np.ndarray
    labels: np.ndarray
    target_channels: list[int]
    target_attributes: list[str]

    def tables(self) -> list[Table]:
        """The five strongest partners of the targets, of channels and of attributes."""
        order = [f"top {i + 1}" for i in range(TOP)]
        rows = [
            [str(c), *_cells([f"{o} ({r:+.2f})" for o, r in strongest(self.channels, c)])]
            for c in self.target_channels
        ]
        theirs = [r for partners in paper.TABLE_2.values() for _, r in partners]
        title = (
            f"channels, correlation of {_MEANING[self.of]} over {self.images} images; top five of "
            f"Kimura & Tanaka's network: {min(theirs):.2f} to {max(theirs):.2f} "
            f"({paper.QUOTED}, Table 2)"
        )
        channels = Table(["channel", *order], rows, title)
        rows = []
        for name in self.target_attributes:
            target = self.names.index(name)
            found = [
                f"{self.names[o]} ({r:+.2f}; labels {number(self.labels[target, o], 2, sign=True)})"
                for o, r in strongest(self.attributes, target)
            ]
            quoted = ", ".join(paper.TABLE_3.get(name, (MISSING,)))
            rows.append([name, *_cells(found), quoted])
        title = (
            f"attributes, correlation of logits over {self.images} images, and of the labels; "
            f"* {paper.QUOTED} (Kimura & Tanaka, Table 3)"
        )
        return [channels, Table(["attribute", *order, "Kimura & Tanaka*"], rows, title)]

    def figure(self) -> Figure:
        """Both matrices."""
        figure = new_figure(13.5, 6.4)
        figure.set_layout_engine("compressed")  # the constrained one cuts titles of square axes
        left, right = figure.subplots(1, 2)
        _heatmap(left, self.channels, f"channels: {_MEANING[self.of]}")
        picture = _heatmap(right, self.attributes, "attributes: logits")
        ticks = range(len(self.names))
        names = list(map(literal, self.names))
        right.set_xticks(ticks, names, fontsize=5.5, rotation=90)
        right.set_yticks(ticks, names, fontsize=5.5)
        bar = figure.colorbar(picture, ax=(left, right), shrink=0.7, fraction=0.03, pad=0.01)
        bar.set_label("correlation over images", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        return figure

    def to_json(self) -> dict[str, Any]:
        """As JSON values, rounded to six digits."""
        return {
            "of": self.of,
            "images": self.images,
            "channels": self.channels.round(6).tolist(),
            "attribute_names": self.names,
            "attributes": self.attributes.round(6).tolist(),
            "labels": self.labels.round(6).tolist(),
        }


_MEANING = {
    "attended": "attended features",
    "masks": "masks",
    "features": "features",
}


def correlation(values: np.ndarray) -> np.ndarray:
    """Pearson correlation ``[C,C]`` of the columns of ``values`` [N,C]; NaN where one is constant.

    Raises:
        ValueError: fewer than two rows.
    """
    if len(values) < 2:
        raise ValueError(f"values: expected at least 2 images, got {len(values)}")
    with np.errstate(invalid="ignore", divide="ignore"):  # constant columns
        return np.corrcoef(values, rowvar=False).reshape(values.shape[1], values.shape[1])


def strongest(matrix: np.ndarray, target: int) -> list[tuple[int, float]]:
    """The others by |correlation| with ``target``, strongest first; what is NaN is left out."""
    size = np.abs(matrix[target])
    order = [int(i) for i in np.argsort(-size, kind="stable") if np.isfinite(size[i])]
    return [(i, float(matrix[target, i])) for i in order if i != target][:TOP]


def correlations(
    checkpoint: Checkpoint,
    faces: Prepared,
    *,
    of: str = "attended",
    channels: Sequence[int] = (0, 1, 2),
    attributes: Sequence[str] | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: Report | None = None,
) -> Correlations:
    """Correlations over images among channels and among attributes.

    An attribute is its binary logit. A channel c is one number for each image, a mean over cells p
    and, where attributes are involved, over attributes k:

    * ``of="attended"``: (1 + M[k,c,p])·F[c,p], what the classifiers see;
    * ``of="masks"``: M[k,c,p];
    * ``of="features"``: F[c,p].

    The paper does not say which it correlates.

    Args:
        checkpoint: of an attention network.
        faces: images at its input size.
        of: what stands for a channel.
        channels, attributes: targets of the tables; None takes the first three attributes.
        batch_size: images in one forward.
        device: where the network runs; None: where it is.
        progress: called with (what, done, total).

    Raises:
        ValueError: an unknown name or channel, or fewer than two images.
    """
    network = attention_network(checkpoint)
    check.one_of("of", of, CHANNEL_VALUES)
    for c in channels:
        if not 0 <= c < network.channels:
            raise ValueError(f"channels: expected ids from 0 to {network.channels - 1}, got {c}")
    named = list(checkpoint.attributes[:3] if attributes is None else attributes)
    for name in named:
        attribute_index(checkpoint.attributes, name)
    values, logits, labels = [], [], []
    with evaluating(network, device) as device, torch.no_grad():
        for batch in batches(checkpoint, faces, batch_size):
            images = checkpoint.preprocessing.normalize(batch["image"].to(device))
            channel, logit = _pooled(network, images, of)
            values.append(channel.cpu())
            logits.append(logit.cpu())
            labels.append(batch["labels"])
            if progress is not None:
                progress("correlating", sum(map(len, labels)), len(faces))
    stacked = [torch.cat(x).double().numpy() for x in (values, logits, labels)]
    by_channel, by_logit, by_label = map(correlation, stacked)
    return Correlations(
        of, len(stacked[0]), by_channel, list(checkpoint.attributes), by_logit, by_label,
        list(channels), named,
    )  # fmt: skip


def _pooled(network: AttentionNetwork, images: Tensor, of: str) -> tuple[Tensor, Tensor]:
    """The channels' values ``[N,C]`` and the logits ``[N,K]`` of a batch."""
    seen: dict[str, Tensor] = {}

    def features(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen["features"] = output.mean((-2, -1))

    def attended(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen["attended"] = inputs[0].mean(1)

    handles = [
        network.features.register_forward_hook(features),
        network.binary.register_forward_pre_hook(attended),
    ]
    try:
        logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    if of == "masks":
        return network.masks(images).mean((1, 3, 4)), logits
    return seen[of], logits


def _cells(texts: list[str]) -> list[str]:
    return [*texts, *[MISSING] * (TOP - len(texts))]


def _heatmap(axis: Axes, matrix: np.ndarray, title: str) -> Any:
    axis.set_title(title, fontsize=10)
    axis.tick_params(labelsize=7)
    axis.set_facecolor("#999")  # seen where there is no correlation to draw; zero is white
    if np.isnan(matrix).any():
        axis.set_xlabel("grey: the same in all images", fontsize=8)
    return axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
