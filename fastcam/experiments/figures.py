"""Yang et al., Figures 6 and 7: where networks look, face by face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from fastcam.evaluation.explain import explain_dataset
from fastcam.experiments.arms import BEFORE, CONTROL, Arm, control, guided, mixed_in, mouth_only
from fastcam.experiments.settings import LIPSTICK, Pair
from fastcam.experiments.study import Study
from fastcam.models import Checkpoint, load_checkpoint
from fastcam.report import ExplainedFace, Table, faces_figure
from fastcam.report.numbers import percent

#: Faces of a figure: this many of E1 and as many of E2.
FACES = 5


@dataclass(frozen=True)
class FaceMaps:
    """Faces with the maps of some networks.

    Attributes:
        title: stands above the figure.
        faces: the first ``FACES`` of E1 and of E2 of each pair's test images.
    """

    title: str
    faces: Mapping[Pair, Sequence[ExplainedFace]]

    def figure(self) -> Figure:
        """One column a face, one row a network; pairs below one another where all have as many."""
        every = [face for faces in self.faces.values() for face in faces]
        counts = {len(faces) for faces in self.faces.values()}
        if len(self.faces) == 1 or len(counts) > 1:  # pairs with few faces stand in one row
            return faces_figure(every, title=self.title)
        names = [pair.attribute.replace("_", " ") for pair in self.faces]
        return faces_figure(every, title=self.title, across=counts.pop(), headings=names)

    def tables(self) -> list[Table]:
        """For each pair: the probability that each network gives to the attribute."""
        found = []
        for pair, faces in self.faces.items():
            networks = list(faces[0].scores)
            rows = [
                [f"{i}: {face.caption}", *(percent(face.scores[n], 0) for n in networks)]
                for i, face in enumerate(faces, 1)
            ]
            title = f"{pair.attribute}, toward the {pair.region}: probability"
            found.append(Table(["face", *networks], rows, title))
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            pair.slug: [
                {"caption": f.caption, "scores": dict(f.scores)} for f in faces
            ]
            for pair, faces in self.faces.items()
        }  # fmt: skip


def figure6(study: Study) -> FaceMaps:
    """The networks before, trained on the mouth alone, with such images mixed in, and guided."""
    arms = {"N_o": mouth_only(), "N_w": mixed_in(), "IoU loss": guided("iou")}
    faces = _faces(study, LIPSTICK, arms)
    title = f"Where four networks look for {LIPSTICK.attribute} (as Yang et al., Figure 6)"
    return FaceMaps(title, {LIPSTICK: faces})


def figure7(study: Study) -> FaceMaps:
    """Before, control and guided, on faces with both attributes and with the first alone."""
    arms = {CONTROL: control(), "guided": guided("iou")}
    faces = {pair: _faces(study, pair, arms) for pair in study.pairs}
    return FaceMaps("Before and after (as Yang et al., Figure 7)", faces)


def _faces(study: Study, pair: Pair, arms: Mapping[str, Arm]) -> list[ExplainedFace]:
    seed = 0
    start = study.base(seed)
    networks: dict[str, Checkpoint] = {BEFORE: load_checkpoint(start)}
    for name, arm in arms.items():
        path = study.tuned(seed, start, pair, arm)
        if path is not None:  # one that diverged has no map to show
            networks[name] = load_checkpoint(path)
    test = study.test_images(seed, networks[BEFORE])
    parts = test.subset(pair.attribute, pair.other)
    chosen = {pair.other: parts.both[:FACES], f"no {pair.other}": parts.only_a[:FACES]}
    indices = [int(i) for rows in chosen.values() for i in rows]
    captions = [text for text, rows in chosen.items() for _ in rows]
    if not indices:
        raise ValueError(f"no test image has {pair.attribute}: nothing to show")
    return explain_dataset(
        networks, test, indices, pair.attribute, region=pair.region, captions=captions
    )
