"""``python -m bench guidance``: is guidance safe? One axis at a time around the default.

Networks that judge lipstick by eye make-up are trained on synthetic faces; each cell of the matrix
fine-tunes one of them as ``fastcam finetune`` does, with one setting changed, beside a control (the
same without guidance). A cell is safe if accuracy stays within a point of its control's.

Everything is kept under ``--work`` and a stopped run goes on where it stopped; the table and the
numbers go to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.report import machine, markdown
from fastcam._util.files import write_json, write_text
from fastcam._util.progress import progress_bars
from fastcam._util.workers import in_processes
from fastcam.demos.guidance import DemoConfig
from fastcam.evaluation.verdicts import MAP_FACTOR, WORSE
from fastcam.losses import CAM_LOSSES
from fastcam.report.numbers import MISSING
from fastcam.training.config import PULL

# The demo's faces, networks, controls and guided networks are those of the default cells, so a
# folder that holds `fastcam demo --seed N --out WORK/seedN` is not trained again.
DEMO = DemoConfig()
PAIRS = ((DEMO.attribute, DEMO.region), ("Eyeglasses", "left_eye,right_eye"))
OTHER = DEMO.other
PERCENT = ("accuracy", "E1", "E2", "not a", "mean accuracy", "energy")


@dataclass(frozen=True)
class Setup:
    """What all cells share.

    images, splits: synthetic faces and their shares for training, validation and test.
    base: settings of the networks that are fine-tuned, by model.
    """

    images: int = DEMO.images
    splits: tuple[float, float, float] = DEMO.splits
    size: int = DEMO.size
    fit: str = DEMO.fit
    base: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {
            "alexnet": {"lr": DEMO.lr, "epochs": DEMO.epochs, "batch_size": DEMO.batch_size},
            "resnet18": {"lr": 0.1, "epochs": 8, "batch_size": 32},
        }
    )


@dataclass(frozen=True)
class Cell:
    """One fine-tuning: what differs from the default."""

    name: str
    model: str = "alexnet"
    seed: int = 0
    pairs: int = 1
    train: Mapping[str, Any] = field(default_factory=dict)
    guidance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def control(self) -> Cell:
        """The same without guidance and without cut-out."""
        train = {k: v for k, v in self.train.items() if k not in ("without", "hide_share")}
        settings = {**train, "model": self.model, "pairs": self.pairs}
        named = ", ".join(f"{k} {v}" for k, v in settings.items())
        return replace(self, name=f"control: {named}", train=train, guidance={"pull": 0.0})

    @property
    def relied(self) -> bool:
        """Whether reliance is measured: of the default, of cut-outs, and of controls."""
        hides = self.train.get("without", "nothing") != "nothing"
        return hides or self.name == "default" or self.name.startswith("control")

    @property
    def slug(self) -> str:
        """Its folder in the work folder."""
        name = "".join(c if c.isalnum() or c in ".-" else "_" for c in self.name)
        if (self.model, self.pairs, dict(self.train)) == ("alexnet", 1, {}):
            name = {"{}": "guided", "{'pull': 0.0}": "control"}.get(str(dict(self.guidance)), name)
        return f"seed{self.seed}/{name}"


#: What images are hidden of in the recipes: lipstick is judged by eye make-up on these faces.
EYES: dict[str, Any] = {
    "without": "left_eye,right_eye,left_eyebrow,right_eyebrow",
    "hide_share": 0.5,
}
ALL_BUT: dict[str, Any] = {"without": "outside", "hide_share": 0.5}
NOTHING = {"without": "nothing"}


def _losses_and_recipes() -> list[Cell]:
    """Every loss of the map at three pulls without cut-out, and what is hidden, alone and not."""
    cells = [
        Cell(f"{loss} {pull:g}", train=NOTHING, guidance={"losses": (loss,), "pull": pull})
        for loss in CAM_LOSSES
        for pull in (0.1, 0.3, 1.0)
    ]
    for name, train, losses in (
        ("outside", ALL_BUT, {"iou 0.3": ("iou", 0.3), "iou 1": ("iou", 1.0)}),
        ("eyes", EYES, {"iou 1": ("iou", 1.0), "energy 1": ("energy", 1.0)}),
    ):
        cells.append(Cell(f"hidden {name}", train=train, guidance={"pull": 0.0}))
        for text, (loss, pull) in losses.items():
            guidance = {"losses": (loss,), "pull": pull}
            cells.append(Cell(f"hidden {name} + {text}", train=train, guidance=guidance))
    return cells


def matrix(seeds: int = 3) -> list[Cell]:
    """The default on every seed, and every axis on the first."""
    cells = [Cell("default", seed=seed) for seed in range(seeds)]
    cells += [
        Cell(f"pull {p:g}", guidance={"pull": p}) for p in (0.1, 0.3, 0.5, 1.0, 2.0) if p != PULL
    ]
    cells += [
        Cell("no max_pair_pull", guidance={"max_pair_pull": 0.0}),
        Cell("no recalibration", guidance={"recalibrate": False}),
        Cell("guide all", guidance={"guide": "all"}),
        Cell("guide true_class", guidance={"guide": "true_class"}),
        Cell("two attributes", pairs=2),
        Cell("batch 256", train={"batch_size": 256, "epochs": 8}),
        Cell("lr .003", train={"lr": 0.003}),
        Cell("lr .03", train={"lr": 0.03}),
        Cell("cosine lr", train={"schedule": "cosine"}),
        Cell("resnet18", model="resnet18"),
    ]
    return cells + _losses_and_recipes()


def faces_of(work: Path, seed: int) -> Path:
    return work / f"seed{seed}" / "faces"


def base_of(work: Path, model: str, seed: int) -> Path:
    return work / f"seed{seed}" / ("before" if model == "alexnet" else f"before-{model}")


def faces(setup: Setup, work: Path, seed: int, workers: int) -> Path:
    from fastcam.faces import generate

    (a, _), *_ = PAIRS
    return generate(
        faces_of(work, seed),
        setup.images,
        seed=seed,
        cooccurrence={(a, OTHER): DEMO.agreement},
        splits=setup.splits,
        workers=workers,
        progress=False,
    )


def base(setup: Setup, work: Path, model: str, seed: int, device: str, workers: int) -> Path:
    """The network that the cells of a model and seed start from."""
    from fastcam.training import TrainConfig, train

    config = TrainConfig(
        data=str(faces_of(work, seed)), model=model, size=setup.size, patience=0,
        schedule="cosine", seed=seed, workers=workers,
        **{"fit": setup.fit, "device": device, **setup.base[model]},
    )  # fmt: skip
    return train(config, base_of(work, model, seed)).checkpoint


def run(work: Path, cell: Cell, device: str, workers: int) -> dict[str, Any]:
    """Fine-tune and judge one cell; what an earlier call found is kept."""
    from fastcam.training import GuidanceConfig, TrainConfig, TrainingDiverged, train

    folder = work / cell.slug
    found = folder / "found.json"
    if found.is_file():
        return json.loads(found.read_text(encoding="utf-8"))
    data = faces_of(work, cell.seed)
    start = base_of(work, cell.model, cell.seed) / "model.pt"
    config = TrainConfig.finetune(
        start, data, GuidanceConfig(targets=PAIRS[: cell.pairs], **cell.guidance),
        seed=cell.seed + 1, device=device, workers=workers, **cell.train,
    )  # fmt: skip
    result: dict[str, Any] = {"cell": asdict(cell), "diverged": None}
    try:
        trained = train(config, folder)
    except TrainingDiverged as error:
        result["diverged"] = str(error)
    else:
        history = trained.history.read_text(encoding="utf-8")
        result["finite"] = "nan" not in history and "inf" not in history
        result["splits"] = judge(
            trained.checkpoint, data, cell.pairs, device, workers, drops=cell.relied
        )
    write_json(found, result)
    return result


def judge(
    path: Path, data: Path, pairs: int, device: str, workers: int, *, drops: bool
) -> dict[str, list[dict[str, float | None]]]:
    """Accuracy, attention and reliance on two splits, one record for each guided attribute.

    The drops are of the score, in its standard deviations, when the region or the eyes are hidden.
    """
    from fastcam.evaluation import predict, reliance, summarize
    from fastcam.models import load_checkpoint

    checkpoint = load_checkpoint(path)
    out: dict[str, list[dict[str, float | None]]] = {}
    for split in ("valid", "test"):
        images = _images(checkpoint, data, split, workers)
        out[split] = []
        for attribute, region in PAIRS[:pairs]:
            what: dict[str, Any] = {"attribute": attribute, "region": region}
            predictions = predict(checkpoint, images, **what, device=device)
            e = summarize(predictions, checkpoint.attributes, **what, other=OTHER, split=split)
            region_drop = eyes_drop = None
            if drops:
                relied = reliance(
                    checkpoint, images, **what, others=(EYES["without"],), device=device
                )
                region_drop, _, eyes_drop = (hidden.drop for hidden in relied.hidden)
            out[split].append(
                {
                    "accuracy": e["all"].accuracy, "E1": e["E1"].accuracy, "E2": e["E2"].accuracy,
                    "not a": e["not a"].accuracy, "average precision": e.average_precision,
                    "mean accuracy": e.mean_accuracy, "energy": e["a"].energy, "iou": e["a"].iou,
                    "region drop": region_drop, "eyes drop": eyes_drop,
                }
            )  # fmt: skip
    return out


_SPLITS: dict[tuple[Any, ...], Any] = {}  # the last four, see below


def _images(checkpoint: Any, data: Path, split: str, workers: int) -> Any:
    """A split in memory, decoded once for all cells of a process."""
    from fastcam.evaluation.splits import prepare_split

    key = (data, split, tuple(checkpoint.attributes), checkpoint.preprocessing)
    if key not in _SPLITS:
        while len(_SPLITS) >= 4:
            del _SPLITS[next(iter(_SPLITS))]
        _SPLITS[key] = prepare_split(checkpoint, data, split, workers=workers)
    return _SPLITS[key]


def verdict(found: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a cell holds what guidance promises; for several attributes, the worst counts."""
    if found["diverged"] or control["diverged"]:
        return {"finite": False, "safe": False, "moved": False}
    pairs = list(zip(found["splits"]["test"], control["splits"]["test"], strict=True))
    changes = [got["accuracy"] - was["accuracy"] for got, was in pairs]
    changes += [got["mean accuracy"] - was["mean accuracy"] for got, was in pairs]
    gains = [(got["energy"] or 0.0) / max(was["energy"] or 0.0, 1e-9) for got, was in pairs]
    return {
        "finite": found["finite"],
        "safe": min(changes) >= -WORSE,
        "moved": min(gains) >= MAP_FACTOR,
        "accuracy change": min(changes),
        "energy gain": min(gains),
    }


def table(cells: Sequence[Cell], found: Mapping[str, Mapping[str, Any]]) -> str:
    """The matrix in Markdown: test split, control → guided."""
    columns = (*PERCENT, "region drop", "eyes drop")
    rows = []
    for cell in cells:
        got, was = found[cell.slug], found[cell.control.slug]
        judged = verdict(got, was)
        row = [cell.name, str(cell.seed)]
        if "accuracy change" not in judged:
            row += ["diverged"] * (len(columns) + 2)
        else:
            for column in columns:
                row.append(
                    ", ".join(
                        f"{_shown(column, b)} → {_shown(column, a)}"
                        for a, b in zip(got["splits"]["test"], was["splits"]["test"], strict=True)
                    )
                )
            row += [f"{100 * judged['accuracy change']:+.1f}", f"{judged['energy gain']:.1f}"]
        good = judged["finite"] and judged["safe"]
        rows.append([*row, "safe" if good else "**not safe**"])
    return markdown(["cell", "seed", *columns, "worst change", "energy ×", ""], rows)


def _shown(column: str, record: Mapping[str, float | None]) -> str:
    value = record.get(column)
    if value is None:
        return MISSING
    return f"{100 * value:.1f}" if column in PERCENT else f"{value:.2f}"


def _job(setup: Setup, work: Path, device: str, workers: int, step: Any) -> tuple[Any, Any]:
    """A seed's faces, the network of a model and a seed, or a cell; and what it is of."""
    if isinstance(step, Cell):
        return step.slug, run(work, step, device, workers)
    if isinstance(step, int):
        return step, faces(setup, work, step, workers)
    model, seed = step
    return step, base(setup, work, model, seed, device, workers)


def in_stages(
    do: Callable[[Any], Any], stages: Mapping[str, Sequence[Any]], jobs: int, threads: int
) -> Iterator[Any]:
    """What ``do`` makes of the tasks of each stage, some at a time in processes of their own."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with progress_bars() as report:
        for what, tasks in stages.items():
            made = in_processes(
                do, tasks, min(jobs, len(tasks)), torch.set_num_threads, (threads,), fork=False
            )
            for done, found in enumerate(made, 1):
                report(what, done, len(tasks), "")
                yield found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench guidance", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/guidance"))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=3, help="of the default cell")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--workers", type=int, default=2, help="threads of a cell")
    parser.add_argument("-k", dest="part", default="", help="cells whose name holds this")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        help="cells of these names, with commas between",
    )
    options = parser.parse_args(arguments)
    setup = Setup()
    try:
        cells = [c for c in chosen(matrix(options.seeds), options.only) if options.part in c.name]
    except ValueError as error:
        parser.error(str(error))
    if not cells:
        parser.error(f"-k {options.part}: no cell has that in its name")
    found = measure(
        setup, options.work, cells, options.device, jobs=options.jobs, workers=options.workers
    )
    device = "cpu"
    if options.device != "cpu" and torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    text = table(cells, found)
    write_json(
        options.out / "guidance.json",
        {**machine(), "device": device, "setup": asdict(setup), "cells": found},
    )
    write_text(options.out / "guidance.md", text)
    print(text)
    return 0


def chosen(cells: Sequence[Cell], names: Sequence[str] | None) -> list[Cell]:
    """The cells of these names, all for None; ValueError for a name that none has."""
    known = {cell.name for cell in cells}
    wanted = known if names is None else {name.strip() for name in names}
    if lost := sorted(wanted - known):
        raise ValueError(
            f"--only: no cell is called {lost[0]!r}; there are: {', '.join(sorted(known))}"
        )
    return [cell for cell in cells if cell.name in wanted]


def measure(
    setup: Setup,
    work: Path,
    cells: Sequence[Cell],
    device: str = "auto",
    *,
    jobs: int = 1,
    workers: int = 2,
) -> dict[str, dict[str, Any]]:
    """Run cells and their controls; what each found, by slug."""
    wanted = {c.slug: c for cell in cells for c in (cell.control, cell)}
    stages: dict[str, Sequence[Any]] = {
        "drawing faces": sorted({c.seed for c in cells}),
        "bases": sorted({(c.model, c.seed) for c in cells}),
        "cells": list(wanted.values()),
    }
    do = partial(_job, setup, work, device, workers)
    found = dict(in_stages(do, stages, jobs, threads=workers))
    return {slug: found[slug] for slug in wanted}
