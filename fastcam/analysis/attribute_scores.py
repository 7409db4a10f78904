"""Accuracy of every attribute (Kimura & Tanaka, Table 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure

from fastcam._util.progress import Report, labelled
from fastcam.analysis import paper
from fastcam.analysis.subject import attention_network
from fastcam.evaluation import predict
from fastcam.evaluation.metrics import accuracy, average_precision, balanced_accuracy
from fastcam.evaluation.splits import Prepared
from fastcam.models import Checkpoint
from fastcam.report import Table
from fastcam.report.figure import COLORS, literal, new_figure
from fastcam.report.numbers import MISSING, number, percent


@dataclass(frozen=True)
class AttributeScores:
    """Scores of K attributes, in the order of ``names``; NaN where only one class occurs.

    Attributes:
        names: the attributes.
        images: how many images were judged.
        positives: share of the images that have the attribute.
        accuracy: share that is judged right (logit above 0: present).
        balanced: mean of the accuracies on images with and without the attribute.
        precision: average precision.
    """

    names: list[str]
    images: int
    positives: list[float]
    accuracy: list[float]
    balanced: list[float]
    precision: list[float]

    @property
    def majority(self) -> list[float]:
        """Accuracy of always saying what is more frequent in these images."""
        return [max(p, 1 - p) for p in self.positives]

    def means(self) -> dict[str, float]:
        """Over the attributes; those that are NaN are left out."""
        columns = ("positives", "majority", "accuracy", "balanced", "precision")
        return {c: float(torch.tensor(getattr(self, c)).nanmean()) for c in columns}

    def tables(self) -> list[Table]:
        """One row an attribute; at the right, if these are CelebA's, four columns of the paper."""
        known = any(name in paper.TABLE_4 for name in self.names)
        quoted = [f"{name}*" for name in paper.COLUMNS.values()] if known else []
        header = ["attribute", "positive", "majority", "accuracy", "balanced", "AP", *quoted]
        columns = (self.positives, self.majority, self.accuracy, self.balanced, self.precision)
        rows = []
        for name, *values, precision in zip(self.names, *columns, strict=True):
            theirs = paper.TABLE_4.get(name)
            cells = [MISSING] * len(quoted) if theirs is None else _quoted(theirs)
            rows.append([name, *(percent(v) for v in values), number(precision), *cells])
        *shares, precision = self.means().values()
        rows.append(["mean", *(percent(v) for v in shares), number(precision)])
        title = f"{self.images} images"
        if known:
            rows[-1] += [f"{paper.column_mean(c):.2f}" for c in paper.COLUMNS]
            rows.append(["average as printed*", *[MISSING] * 5, *_quoted(paper.TABLE_4_AVERAGE)])
            title += f"; * in percent, {paper.QUOTED} (Kimura & Tanaka, Table 4)"
        return [Table(header, rows, title)]

    def figure(self) -> Figure:
        """One line an attribute."""
        count = len(self.names)
        figure = new_figure(8, 0.21 * count + 1.3)
        axis = figure.subplots()
        rows = range(count)
        theirs = [paper.TABLE_4[n].ours if n in paper.TABLE_4 else None for n in self.names]
        known = [(t, r) for t, r in zip(theirs, rows, strict=True) if t is not None]
        axis.hlines(
            rows, [100 * v for v in self.majority], [100 * v for v in self.accuracy],
            color=COLORS[0], lw=1.2,
        )  # fmt: skip
        if known:
            axis.plot(*zip(*known, strict=True), "d", mfc="none", color="#888", ms=5,
                      label="Kimura & Tanaka on CelebA (quoted, not comparable)")  # fmt: skip
        for values, marker, color, label in (
            (self.majority, "|", "#000", "always the more frequent"),
            (self.balanced, "^", COLORS[1], "balanced accuracy"),
            (self.accuracy, "o", COLORS[0], "accuracy"),
        ):
            axis.plot([100 * v for v in values], rows, marker, color=color, ms=5, label=label)
        axis.set_yticks(list(rows), list(map(literal, self.names)), fontsize=8)
        axis.set_ylim(count - 0.4, -0.6)
        axis.set_xlabel(f"percent of {self.images} images")
        axis.grid(alpha=0.25)
        figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
        return figure

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "images": self.images,
            "attributes": {
                name: {
                    "positives": self.positives[i],
                    "accuracy": self.accuracy[i],
                    "balanced_accuracy": self.balanced[i],
                    "average_precision": self.precision[i],
                }
                for i, name in enumerate(self.names)
            },
            "mean": self.means(),
            "quoted_percent": {
                "note": paper.QUOTED,
                "attributes": {
                    n: paper.TABLE_4[n]._asdict() for n in self.names if n in paper.TABLE_4
                },
                "average_as_printed": paper.TABLE_4_AVERAGE._asdict(),
            },
        }


def attributes(
    checkpoint: Checkpoint,
    faces: Prepared,
    *,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: Report | None = None,
) -> AttributeScores:
    """Accuracy, balanced accuracy and average precision of the binary classifiers.

    Args:
        checkpoint: of an attention network.
        faces: images at its input size.
        batch_size: images in one forward.
        device: where the network runs; None: where it is.
        progress: called with (what, done, total).

    Raises:
        ValueError: another model, or faces that do not fit it.
    """
    attention_network(checkpoint)
    found = predict(
        checkpoint,
        faces,
        attribute=checkpoint.attributes[0],
        batch_size=batch_size,
        device=device,
        progress=labelled(progress, "judging attributes"),
    )
    measures = (accuracy, balanced_accuracy, average_precision)
    return AttributeScores(
        list(checkpoint.attributes),
        len(found.labels),
        found.labels.mean(0).tolist(),
        *(measure(found.logits, found.labels).tolist() for measure in measures),
    )


def _quoted(row: paper.QuotedAccuracy) -> list[str]:
    """As printed: the paper's own with two digits, the others without."""
    return [f"{row.ours:.2f}", *(f"{v:g}" for v in row[1:])]
