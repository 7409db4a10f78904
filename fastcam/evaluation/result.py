"""The outcome of an evaluation, as plain values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcam._util.files import json_with, read_json, write_json

KEYS = ("attribute", "split", "subsets")  # by which an evaluation is known


@dataclass(frozen=True)
class SubsetScore:
    """One subset of the split.

    Attributes:
        name: ``"all"``, ``"E1"`` (a∩b), ``"E2"`` (a∩¬b), ``"a"`` or ``"not a"``.
        images: how many images it holds.
        accuracy: share of them for which attribute a is predicted right (score above 0 means
            present); None for an empty subset, as below.
        energy: mean share of Grad-CAM energy inside the region, over the maps that are not dead.
        iou: mean IoU of the thresholded map and the region; a dead map counts as 0.
        dead: how many maps are zero everywhere.
    """

    name: str
    images: int
    accuracy: float | None
    energy: float | None = None
    iou: float | None = None
    dead: int | None = None


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
        mean_accuracy: accuracy averaged over all attributes of the classifier.
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

    def __getitem__(self, name: str) -> SubsetScore:
        """The subset of that name; KeyError if there is none."""
        for subset in self.subsets:
            if subset.name == name:
                return subset
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write a JSON file atomically."""
        return write_json(path, self.to_json(), ours=json_with(*KEYS))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Evaluation:
        """The reverse of :meth:`to_json`."""
        return cls(**{**values, "subsets": tuple(SubsetScore(**s) for s in values["subsets"])})

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
