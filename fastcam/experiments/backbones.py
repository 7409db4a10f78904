"""Yang et al., section 4: other networks, and rectangles that need less than 68 landmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastcam._util.files import make_folder
from fastcam.data.landmarks import resolve_landmarks
from fastcam.data.tables import ATTRIBUTE_TABLE, read_attributes
from fastcam.experiments.arms import BEFORE, CONTROL, Arm, control, guided
from fastcam.experiments.measures import Measured, Spread, collect, column, image_counts
from fastcam.experiments.settings import LIPSTICK, Pair
from fastcam.experiments.study import Study
from fastcam.experiments.tables import change_table, network_table, trainings
from fastcam.models import load_checkpoint
from fastcam.regions import LandmarkSource, LandmarkTable
from fastcam.report import Table
from fastcam.report.figure import COLORS, new_figure
from fastcam.training import TrainingDiverged

#: Networks, and how they are trained from scratch; what is not named is as in the settings. VGG-16
#: costs the most by far: at 96 px half as much, and its map still has 6 × 6 cells.
BACKBONES: dict[str, dict[str, Any]] = {
    "alexnet": {},
    "vgg16": {"lr": 0.05, "size": 96},
    "resnet18": {"lr": 0.1},
    "resnet50": {"lr": 0.1},
}
#: Of a brief experiment: these, trained for so many epochs, and these ways to fine-tune.
BRIEF = {"alexnet": {}, "resnet18": {"lr": 0.1, "epochs": 3}}
_BRIEF_ARMS = (CONTROL, "iou", "iou, fixed rectangle")
#: The mouth as a rectangle drawn on the template face, which moves with each face's landmarks.
FREE_BOX = "0.34,0.63,0.66,0.80"


def _arms(pair: Pair, fixed: Path) -> list[Arm]:
    return [
        control(),
        guided("iou"),
        guided("energy"),
        replace(
            guided("iou", "iou, free rectangle"),
            guidance={"losses": ("iou",), "pull": 1.0, "targets": ((pair.attribute, FREE_BOX),)},
        ),
        guided("iou", "iou, fixed rectangle", note="the mean face's", landmarks=str(fixed)),
    ]


def mean_face(data: Path, out: Path) -> Path:
    """Write a landmark table in which every image has the mean landmarks of the data.

    A region that is laid by it is the same rectangle in all images.

    Args:
        data: folder in CelebA's layout.
        out: the file.
    """
    make_folder(out.parent)
    names = read_attributes(data / ATTRIBUTE_TABLE).names
    found = resolve_landmarks(data, names)
    sizes = found.sizes[:, None].astype(np.float64)
    mean = np.nanmean(found.points / sizes, axis=0)  # without faces whose points are unknown
    source = np.full(len(names), LandmarkSource.TEMPLATE, np.uint8)
    points = (mean * sizes).astype(np.float32)
    LandmarkTable(np.array(names), points, source, found.sizes).save(out)
    return out


@dataclass(frozen=True)
class Backbones:
    """For each backbone the networks before and after, measured in each training.

    Attributes:
        pair: of attributes.
        measured: by backbone, then network.
        counts: by backbone, the number of test images in each group, by training that converged.
    """

    pair: Pair
    measured: Mapping[str, Measured]
    counts: Mapping[str, list[dict[str, int]]]

    def tables(self) -> list[Table]:
        found = []
        for backbone, measured in self.measured.items():
            judged = f"; {trainings(counts)}" if (counts := self.counts[backbone]) else ""
            found += [
                network_table(measured, f"{backbone}: {self.pair.attribute}{judged}"),
                change_table(measured, f"{backbone}: minus the control, points"),
            ]
        return found

    def figure(self) -> Figure:
        """Energy in the region after each fine-tuning, by backbone."""
        figure = new_figure(7.5, 4.0)
        axis = figure.subplots()
        networks = [n for n in next(iter(self.measured.values())) if n != BEFORE]
        for i, network in enumerate(networks):
            heights = [
                100 * (Spread.of(column(measured, network, "energy")).mean or 0.0)
                for measured in self.measured.values()
            ]
            width = 0.8 / len(networks)
            places = [k + (i - len(networks) / 2 + 0.5) * width for k in range(len(heights))]
            axis.bar(places, heights, width, label=network, color=COLORS[i])
        axis.set_xticks(range(len(self.measured)), list(self.measured))
        axis.set_ylabel(f"Grad-CAM energy in the {self.pair.region}, %")
        axis.legend(fontsize=8)
        return figure

    def to_json(self) -> dict[str, Any]:
        return {
            backbone: {name: list(values) for name, values in measured.items()}
            for backbone, measured in self.measured.items()
        }


def backbones(study: Study) -> Backbones:
    """Train, guide and judge each backbone."""
    pair, brief = LIPSTICK, study.config.brief
    found: dict[str, dict[str, list[Any]]] = {}
    counts: dict[str, list[dict[str, int]]] = {}
    for seed in range(study.config.seeds):
        fixed = mean_face(study.data(seed), study.out / f"seed{seed}" / "mean_face.npz")
        for backbone, settings in (BRIEF if brief else BACKBONES).items():
            arms = [a for a in _arms(pair, fixed) if not brief or a.name in _BRIEF_ARMS]
            networks = found.setdefault(backbone, {})
            groups = counts.setdefault(backbone, [])
            try:
                start = study.base(seed, backbone, **settings)
            except TrainingDiverged as error:
                study.say(str(error))
                for name in (BEFORE, *(arm.name for arm in arms)):
                    networks.setdefault(name, []).append(None)
                continue
            attributes = load_checkpoint(start).attributes
            rows = study.rows(seed, pair, arms, start)
            judged = collect(networks, rows, pair, attributes, f"seed {seed}, {backbone}")
            groups.append(image_counts(judged, pair, attributes))
    return Backbones(pair, found, counts)
