"""Training without reconstructor or multi-label classifier (Kimura & Tanaka, Table 1)."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure

from fastcam import __version__
from fastcam._util import checks as check
from fastcam._util.files import json_with, read_json, remove_ours, write_json
from fastcam._util.progress import Report, reporting
from fastcam.analysis import paper
from fastcam.analysis.attribute_scores import attributes
from fastcam.analysis.subject import load_attention, open_faces
from fastcam.data import open_folder
from fastcam.evaluation import pick_device
from fastcam.evaluation.splits import Prepared
from fastcam.report import Table
from fastcam.report.figure import COLORS, new_figure
from fastcam.report.numbers import percent
from fastcam.training import TrainConfig, train
from fastcam.training.run_folder import remove_run

#: The options of the network by variant.
VARIANTS: Mapping[str, dict[str, bool]] = MappingProxyType(
    {
        "full": {},
        "no_reconstructor": {"reconstructor": False},
        "no_multilabel": {"multilabel": False},
        "neither": {"multilabel": False, "reconstructor": False},
    }
)
_NAMES = {
    "full": "both",
    "no_reconstructor": "without reconstructor",
    "no_multilabel": "without multi-label classifier",
    "neither": "without either",
}
JUDGED = "evaluation.json"  # in the folder of each run
_JUDGEMENT = ("settings", "images", "means")
_is_judgement = json_with(*_JUDGEMENT)
MEASURES = ("accuracy", "balanced", "precision")


@dataclass(frozen=True)
class Ablation:
    """Scores of the four variants over seeds.

    Attributes:
        seeds: of the runs.
        scores: by variant and measure (mean over attributes of accuracy, balanced accuracy,
            average precision), one value a seed.
        majority: accuracy of always saying what is more frequent in the evaluated images.
        images: how many these are.
        trained_on: how many images each run saw, and for how many epochs, in words.
    """

    seeds: list[int]
    scores: dict[str, dict[str, list[float]]]
    majority: float
    images: int
    trained_on: str

    def tables(self) -> list[Table]:
        """One row a variant: mean ± standard deviation over the seeds."""
        header = ["network", "accuracy", "balanced accuracy", "average precision"]
        header.append("Kimura & Tanaka, accuracy*")
        rows = [
            [
                _NAMES[name],
                *(_spread(measures[m]) for m in MEASURES),
                f"{paper.TABLE_1[name]:.2f}",
            ]
            for name, measures in self.scores.items()
        ]
        title = (
            f"mean ± standard deviation over {len(self.seeds)} seed(s), {self.trained_on}, "
            f"{self.images} images judged; always saying what is more frequent: "
            f"{percent(self.majority, 2)}; * in percent, {paper.QUOTED} (Kimura & Tanaka, Table 1)"
        )
        return [Table(header, rows, title)]

    def figure(self) -> Figure:
        """A panel for each measure; dots are seeds, bars their means."""
        figure = new_figure(10.5, 2.9)
        axes = figure.subplots(1, 3, sharey=True)
        titles = ("accuracy", "balanced accuracy", "average precision")
        for axis, measure, title in zip(axes, MEASURES, titles, strict=True):
            for row, measures in enumerate(self.scores.values()):
                values = [100 * v for v in measures[measure]]
                mean = statistics.fmean(values)
                axis.plot(values, [row] * len(values), "o", color=COLORS[0], ms=5, alpha=0.6)
                axis.plot([mean, mean], [row - 0.25, row + 0.25], color="#000", lw=1.5)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("percent, mean over attributes", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.25)
        axes[0].axvline(100 * self.majority, color="#888", lw=1, ls="--")
        axes[0].set_yticks(range(len(self.scores)), [_NAMES[n] for n in self.scores])
        axes[0].set_ylim(len(self.scores) - 0.5, -0.5)
        figure.supxlabel(
            "dots: seeds; bars: their means; dashed: always the more frequent", fontsize=8
        )
        return figure

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        quoted = {"note": paper.QUOTED, "accuracy_percent": paper.TABLE_1}
        return {**dataclasses.asdict(self), "quoted": quoted}


def ablation(
    config: TrainConfig,
    out: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    split: str = "test",
    limit: int | None = None,
    progress: bool | Report | None = True,
) -> Ablation:
    """Train and judge the four variants with every seed; what is finished is kept.

    Args:
        config: of a run with ``model="attention"``; its ``seed`` and the two options of the
            variants are replaced.
        out: folder; each run lies in ``out/VARIANT-SEED``.
        seeds: each gives all four variants the same batches.
        split, limit: which images the networks are judged on.
        progress: True draws bars on a terminal and in a notebook that has ipywidgets; a function is
            called with (what, done, total, note).

    Raises:
        ValueError: another model, a repeated or missing seed, an unknown or empty split, a limit
            below 1, or ``out`` holds other runs.
    """
    if config.model != "attention" or config.start is not None:
        raise ValueError("config: expected a run with model='attention', from scratch")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected at least one, none twice, got {list(seeds)}")
    if limit is not None:
        check.at_least("limit", limit, 1)
    if not len(open_folder(config.data).images(split, config.attributes)):  # known before training
        raise ValueError(f"{config.data} has no image in the {split} split")
    others = {k: v for k, v in (config.model_options or {}).items() if k not in VARIANTS["neither"]}
    faces: Prepared | None = None
    scores: dict[str, dict[str, list[float]]] = {
        name: {measure: [] for measure in MEASURES} for name in VARIANTS
    }
    runs = [(seed, name) for seed in seeds for name in VARIANTS]
    with reporting(progress) as bars:
        for done, (seed, name) in enumerate(runs):
            report = _within(bars, done, len(runs), f"{_NAMES[name]}, seed {seed}")
            folder = Path(out) / f"{name}-{seed}"
            options = {**others, **VARIANTS[name]} or None
            run = train(
                dataclasses.replace(config, seed=seed, model_options=options),
                folder,
                progress=report,
            )
            judged = folder / JUDGED
            what = {"data": config.data, "split": split, "limit": limit, "version": __version__}
            stored = read_json(judged, "evaluation", _JUDGEMENT) if judged.is_file() else {}
            if stored.get("settings") != what:
                checkpoint = load_attention(run.checkpoint)
                if faces is None:
                    faces = open_faces(
                        checkpoint, config.data, split, limit=limit, cache=config.cache,
                        workers=config.workers,
                    )  # fmt: skip
                found = attributes(checkpoint, faces, device=pick_device(config.device))
                stored = {"settings": what, "images": found.images, "means": found.means()}
                write_json(judged, stored, ours=_is_judgement)
            for measure in MEASURES:
                scores[name][measure].append(stored["means"][measure])
        if bars is not None:
            bars("training variants", len(runs), len(runs))
    count = "all" if config.limit_train is None else str(config.limit_train)
    passes = config.epochs or run.epochs
    trained = f"trained on {count} training images for at most {passes} epoch(s)"
    return Ablation(list(seeds), scores, stored["means"]["majority"], stored["images"], trained)


def remove_ablation(out: str | Path) -> None:
    """Remove the runs of :func:`ablation` from their folder, and it if nothing else is in it."""
    for name in VARIANTS:
        for folder in Path(out).glob(f"{name}-*"):
            remove_ours(folder, {JUDGED: _is_judgement})
            remove_run(folder)
    with contextlib.suppress(OSError):  # not there, or not empty
        Path(out).rmdir()


def _within(progress: Report | None, position: int, runs: int, run: str) -> Report | None:
    """A report for the parts of one run: they become the note of the bar over all runs."""
    if progress is None:
        return None
    bar = progress

    def report(what: str, done: int, total: int, note: str = "") -> None:
        bar("training variants", position, runs, f"{run}: {what}, {done}/{total} {note}".rstrip())

    bar("training variants", position, runs, run)
    return report


def _spread(values: list[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread}%"
