"""The outcome of an evaluation, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcam._util.files import json_with, read_json, write_json
from fastcam.evaluation.reliance_result import Reliance
from fastcam.evaluation.verdicts import Verdict

KEYS = ("attribute", "split", "subsets")  # by which an evaluation is known


@dataclass(frozen=True)
class SubsetScore:
    """One subset of the split.

    Attributes:
        name: ``"all"``, ``"E1"`` (a∩b), ``"E2"`` (a∩¬b), ``"a"``, ``"not a"``, ``"not a, b"``,
            ``"not a, not b"``, ``"b"`` or ``"not b"``.
        images: how many images it holds.
        accuracy: share of them for which attribute a is predicted right (score above 0 means
            present); None for an empty subset, as below.
        energy: mean share of Grad-CAM energy inside the region, over the maps that are not dead.
        iou: mean IoU of the thresholded map and the region; a dead map counts as 0.
        dead: how many maps are zero everywhere.
        size_corrected_energy: mean of the energy over the region's share of the area, over the maps
            that are not dead.
        pointing: share of the maps whose peak lies in the region.
        attention_iou: mean likeness of map and region, see
            :func:`fastcam.evaluation.attention_iou`.
        auc, average_precision: of a's score among the subset's images, which no threshold touches
            (of a class its probability); None where all or none have a.
    """

    name: str
    images: int
    accuracy: float | None
    energy: float | None = None
    iou: float | None = None
    dead: int | None = None
    size_corrected_energy: float | None = None
    pointing: float | None = None
    attention_iou: float | None = None
    auc: float | None = None
    average_precision: float | None = None


@dataclass(frozen=True)
class EqualSpecificity:
    """Accuracy on a∩¬b where images without a are right as often as with another classifier.

    Attributes:
        reference: name of the other classifier.
        threshold: of a's score, at which that is so.
        accuracy: share of a∩¬b above it; None for an empty subset.
    """

    reference: str
    threshold: float
    accuracy: float | None


@dataclass(frozen=True)
class Evaluation:
    """How a classifier does on attribute a, beside attribute b, and where it looks for a.

    Attributes:
        attribute, other: a and b; b may be None.
        region: the region that the attention measures refer to, or None.
        data, split: what was evaluated.
        threshold: of the Grad-CAM set.
        subsets: scores of the whole split and of its subsets.
        balanced_accuracy: mean of the accuracies on a and on ¬a.
        average_precision: area under precision against recall for a.
        mean_accuracy: accuracy averaged over all attributes of the classifier; of classes, the
            share of the images whose own class is chosen.
        worst_group: the least accuracy of the cells of (a, b) that hold an image; None without b.
        calibration_error: expected calibration error of a, see
            :func:`fastcam.evaluation.metrics.calibration_error`.
        equal_specificity: E2 at another classifier's accuracy on ¬a.
        reliance: what the score of a relies on.
        verdict: what changed against another classifier.
        exclusive: whether the classifier tells classes apart, of which an image has one.
        judged: names of its attributes, over which ``mean_accuracy`` is taken; None of classes.

    What files of an earlier version lack is None (``exclusive``: False).
    """

    attribute: str
    other: str | None
    region: str | None
    data: str
    split: str
    threshold: float
    subsets: tuple[SubsetScore, ...]
    balanced_accuracy: float | None
    average_precision: float | None
    mean_accuracy: float
    worst_group: float | None = None
    calibration_error: float | None = None
    equal_specificity: EqualSpecificity | None = None
    reliance: Reliance | None = None
    verdict: Verdict | None = None
    exclusive: bool = False
    judged: tuple[str, ...] | None = None

    def __getitem__(self, name: str) -> SubsetScore:
        """The subset of that name; KeyError if there is none."""
        for subset in self.subsets:
            if subset.name == name:
                return subset
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        verdict = self.verdict and self.verdict.to_json()
        return {**dataclasses.asdict(self), "verdict": verdict}

    def save(self, path: str | Path) -> Path:
        """Write a JSON file atomically."""
        return write_json(path, self.to_json(), ours=json_with(*KEYS))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Evaluation:
        """The reverse of :meth:`to_json`."""
        made: dict[str, Any] = {"subsets": tuple(SubsetScore(**s) for s in values["subsets"])}
        readers: dict[str, Callable[[dict[str, Any]], object]] = {
            "equal_specificity": lambda found: EqualSpecificity(**found),
            "reliance": Reliance.from_json,
            "verdict": Verdict.from_json,
            "judged": tuple,
        }
        made |= {k: read(values[k]) for k, read in readers.items() if values.get(k) is not None}
        return cls(**{**values, **made})

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds something else.
        """
        values = read_json(path, "evaluation", KEYS)
        try:
            return cls.from_json(values)
        except (TypeError, KeyError) as error:
            raise ValueError(f"{path} is no evaluation: {error}") from None
