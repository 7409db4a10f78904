"""Before, control and after on the same test images: numbers, verdict, and whose answer changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastcam._util.files import json_with, read_json, write_json
from fastcam._util.progress import Report
from fastcam.data import open_folder
from fastcam.data.labelled import attribute_index
from fastcam.evaluation import Difference, Evaluation
from fastcam.evaluation.checkpoints import differences_of, measure, summarize_all
from fastcam.evaluation.given import judged_right
from fastcam.evaluation.splits import prepare_split
from fastcam.evaluation.tables import tables_of
from fastcam.models import load_checkpoint
from fastcam.report import Table
from fastcam.studio.recipes import Recipe
from fastcam.studio.traces import AFTER, BEFORE, CONTROL

FILE = "judgement.json"
_KEYS = ("evaluations", "differences", "changed")
#: Images to be looked at.
SHOWN = 6


@dataclass(frozen=True)
class Judgement:
    """What a fine-tuning did.

    Attributes:
        evaluations: of the checkpoints before, control and after.
        differences: after minus control, and control minus before, with intervals.
        names: of the test images, N.
        gained, lost: images whose answer is right after and wrong in the control, and the reverse.
        shown: images to be looked at: with the other attribute and without it, where there is one.
    """

    evaluations: Mapping[str, Evaluation]
    differences: Mapping[str, Sequence[Difference]]
    names: Sequence[str]
    gained: Sequence[int]
    lost: Sequence[int]
    shown: Sequence[int]

    @property
    def verdict(self) -> str:
        """What changed, in a sentence with its numbers."""
        return str(self.evaluations[AFTER].verdict or "")

    def tables(self) -> list[Table]:
        """Accuracy and attention; their differences; the reliance."""
        return tables_of(self.evaluations, self.differences)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "evaluations": {n: e.to_json() for n, e in self.evaluations.items()},
            "differences": {k: [asdict(d) for d in v] for k, v in self.differences.items()},
            "names": list(self.names),
            "changed": {"gained": list(self.gained), "lost": list(self.lost)},
            "shown": list(self.shown),
        }

    def save(self, folder: Path) -> None:
        """Write it into a job's folder."""
        write_json(folder / FILE, self.to_json(), ours=json_with(*_KEYS))

    @classmethod
    def load(cls, folder: Path) -> Judgement:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError, ValueError: there is none, or it is damaged.
        """
        values = read_json(folder / FILE, "judgement of the studio", _KEYS)
        return cls(
            {n: Evaluation.from_json(v) for n, v in values["evaluations"].items()},
            {k: [Difference(**d) for d in v] for k, v in values["differences"].items()},
            values["names"],
            values["changed"]["gained"],
            values["changed"]["lost"],
            values["shown"],
        )


def judge(
    checkpoints: Mapping[str, Path],
    data: Path,
    recipe: Recipe,
    *,
    progress: Report | None = None,
) -> Judgement:
    """Evaluate the three as ``fastcam evaluate`` does, and see whose answer changed.

    Args:
        checkpoints: before, control and after.
        data: folder of images with labels; its test split is judged.
        recipe: attribute, region and the other attribute.
        progress: called with (what, done, total).

    Raises:
        ValueError: as :func:`fastcam.evaluation.compare`.
    """
    folder = open_folder(data)
    others = tuple(folder.parts)
    models = {name: load_checkpoint(path) for name, path in checkpoints.items()}
    faces = prepare_split(
        models[BEFORE], folder, "test", regions=[recipe.region, *others], cache=False,
        progress=progress,
    )  # fmt: skip
    found = {
        name: measure(
            name, model, faces, hidden={"others": others}, progress=progress,
            attribute=recipe.attribute, region=recipe.region,
        )
        for name, model in models.items()
    }  # fmt: skip
    pair: dict[str, Any] = {"attribute": recipe.attribute, "other": recipe.other}
    evaluations = summarize_all(
        found, **pair, region=recipe.region, data=str(data), split="test", threshold=0.5
    )
    differences = differences_of(found, ((AFTER, CONTROL), (CONTROL, BEFORE)), **pair)
    a = attribute_index(models[BEFORE].judged, recipe.attribute)
    right = {
        n: judged_right(m.predictions.logits[:, a], m.predictions.labels[:, a]) > 0.5
        for n, m in found.items()
    }
    return Judgement(
        evaluations,
        differences,
        list(faces.names),
        (right[AFTER] & ~right[CONTROL]).nonzero().flatten().tolist(),
        (right[CONTROL] & ~right[AFTER]).nonzero().flatten().tolist(),
        chosen_faces(faces, recipe),
    )


def chosen_faces(faces: Any, recipe: Recipe) -> list[int]:
    """The first images with the attribute: half with the other one too, as far as there are."""
    if recipe.other is None:
        has = faces.labels[:, faces.attribute(recipe.attribute)] > 0.5
        rows = has.nonzero().flatten().tolist()[:SHOWN]
    else:
        parts = faces.subset(recipe.attribute, recipe.other)
        both, alone = parts.both.tolist(), parts.only_a.tolist()
        rows = [*both[: SHOWN - min(len(alone), SHOWN // 2)], *alone[: SHOWN // 2]]
    return rows or list(range(min(SHOWN, len(faces))))
