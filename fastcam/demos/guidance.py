"""The whole path on synthetic faces: train, direct the attention, and compare with a control.

Faces are drawn on which lipstick and heavy make-up nearly always come together; an AlexNet trained
on them judges lipstick by the make-up. One more epoch, as ``fastcam finetune`` does it by default,
tells it to look at the mouth; a control gets the same epoch, with the same batches and dropout, as
an ordinary fine-tuning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastcam._util.files import (
    commented,
    json_with,
    marked,
    read_json,
    write_json,
    write_marked,
)
from fastcam._util.progress import Report
from fastcam.demos.frame import DemoFiles, Frame, Say, opened
from fastcam.demos.settings import DemoConfig
from fastcam.evaluation import Difference, Evaluation, Verdict
from fastcam.evaluation.checkpoints import differences_of, measure, summarize_all
from fastcam.evaluation.drops import IMAGES
from fastcam.evaluation.explain import explain_dataset
from fastcam.evaluation.splits import Prepared, prepare_split
from fastcam.evaluation.tables import tables_of
from fastcam.evaluation.verdicts import THRESHOLDS, as_markdown
from fastcam.models import Checkpoint, load_checkpoint
from fastcam.regions import FACE_PARTS
from fastcam.report import (
    Section,
    Table,
    bars_figure,
    curves_figure,
    faces_figure,
    png_bytes,
    save_figure,
)
from fastcam.report.bars import Bar
from fastcam.report.numbers import percent
from fastcam.training import GuidanceConfig, TrainConfig, TrainResult, train
from fastcam.training.config import PULL
from fastcam.training.history import read_history
from fastcam.training.run_folder import remove_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DemoConfig", "DemoResult", "clear", "demo"]

KEYS = ("settings", "models", "differences")
FILES = DemoFiles(
    folders=dict.fromkeys(("before", "control", "guided"), remove_run),
    files={
        "evaluation.json": json_with(*KEYS),
        "table.md": commented,
        "faces.png": marked,
        "reliance.png": marked,
        "curves.png": marked,
    },
)
clear = FILES.clear


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, and its page.

    Attributes:
        evaluations, table: on the test split, by ``"before"``, ``"control"`` and ``"guided"``.
        differences, difference_table: guided minus control, and control minus before.
        verdict: what changed from the control to the guided one.
        reliance_table: drops of the score when regions are hidden.
        page: the HTML page.
    """

    evaluations: Mapping[str, Evaluation]
    table: Table
    differences: Mapping[str, Sequence[Difference]]
    difference_table: Table
    verdict: Verdict
    reliance_table: Table
    page: Path


def demo(
    out: str | Path,
    config: DemoConfig | None = None,
    *,
    workers: int = 2,
    progress: bool | Report | None = True,
    say: Say = print,
) -> DemoResult:
    """Run the demo; stages that an earlier run with the same settings finished are kept.

    Args:
        out: folder for everything: ``index.html``, ``table.md``, ``faces.png``, ``curves.png``,
            ``reliance.png``, ``evaluation.json``, and a folder for each stage.
        config: the settings.
        workers: processes that draw faces, and threads that read them.
        progress: True draws bars on a terminal and in a notebook that has ipywidgets; a function is
            called with (what, done, total).
        say: told what happens, one line at a time.

    Raises:
        ValueError: ``out`` holds a demo with other settings.
        FileExistsError: ``out`` holds a file that fastcam did not write and would have to replace.
        BlockingIOError: another process writes there.
        OSError: a file cannot be written; finished stages are kept.
    """
    config = config or DemoConfig()
    with opened(out, config, FILES, workers, progress, say) as frame:
        return _demo(config, frame)


def _demo(config: DemoConfig, frame: Frame) -> DemoResult:
    hidden = {"images": IMAGES, "others": list(FACE_PARTS)}
    settings = {**frame.settings, "finetune": _finetuning(config), "reliance": hidden}
    frame = replace(frame, settings=settings)
    out, stage, progress = frame.out, frame.stage, frame.progress
    data = frame.draw_faces(
        config.images,
        seed=config.seed,
        cooccurrence={(config.attribute, config.other): config.agreement},
        splits=config.splits,
    )

    def run(name: str, settings: TrainConfig) -> TrainResult:
        return train(settings, out / name, progress=progress)

    stage(f"training {config.model} at {config.size} px for {config.epochs} epochs")
    runs = {"before": run("before", _training(config, data, frame.workers))}
    start = runs["before"].checkpoint
    stage("fine-tuning without guidance (control)")
    runs["control"] = run("control", _tuning(config, data, start, 0.0, frame.workers))
    stage(f"fine-tuning toward the {config.region}")
    runs["guided"] = run("guided", _tuning(config, data, start, config.pull, frame.workers))
    stage("evaluating")
    models = {name: load_checkpoint(trained.checkpoint) for name, trained in runs.items()}
    test = prepare_split(models["before"], data, "test", workers=frame.workers, progress=progress)
    evaluations, differences = _evaluate(config, models, test, frame)
    verdict = evaluations["guided"].verdict
    assert verdict is not None, "the demo has a region"
    tables = tables_of(evaluations, differences)
    write_marked(out / "table.md", as_markdown([verdict], tables))
    stage("drawing figures")
    histories = {name: read_history(trained.history) for name, trained in runs.items()}
    page = _write_page(config, frame, models, test, evaluations, tables, histories)
    return DemoResult(evaluations, tables[0], differences, tables[1], verdict, tables[2], page)


def _training(config: DemoConfig, data: Path, workers: int) -> TrainConfig:
    return TrainConfig(
        data=str(data), model=config.model, size=config.size, fit=config.fit,
        epochs=config.epochs, patience=0, batch_size=config.batch_size, lr=config.lr,
        clip=config.clip, schedule=config.schedule, seed=config.seed, workers=workers,
        device="cpu",
    )  # fmt: skip


def _tuning(config: DemoConfig, data: Path, start: Path, pull: float, workers: int) -> TrainConfig:
    guidance = GuidanceConfig(targets=((config.attribute, config.region),), pull=pull)
    return TrainConfig.finetune(
        start, data, guidance, seed=config.seed + 1, workers=workers, device="cpu"
    )


def _finetuning(config: DemoConfig) -> dict[str, Any]:
    """What the guided run comes to with the library's defaults; results depend on them, too."""
    settings = _tuning(config, Path(), Path(), config.pull, 0).settings()
    return {name: settings[name] for name in settings if name not in ("data", "start")}


def _evaluate(
    config: DemoConfig, models: Mapping[str, Checkpoint], test: Prepared, frame: Frame
) -> tuple[dict[str, Evaluation], dict[str, tuple[Difference, ...]]]:
    """Evaluate every model, or read what an earlier run with the same settings found."""
    path = frame.out / "evaluation.json"
    stored = read_json(path, "evaluation of a demo", KEYS) if path.is_file() else None

    def make() -> dict[str, Any]:
        found = _found(config, models, test, frame.progress)
        content = {"settings": frame.settings, **found}
        write_json(path, content, ours=FILES.files[path.name])
        return content

    content = frame.kept(stored, stored and stored["settings"], make)
    return (
        {k: Evaluation.from_json(v) for k, v in content["models"].items()},
        {k: tuple(Difference(**d) for d in v) for k, v in content["differences"].items()},
    )


def _found(
    config: DemoConfig,
    models: Mapping[str, Checkpoint],
    test: Prepared,
    progress: Report | None,
) -> dict[str, Any]:
    """The evaluations of the models and the differences between them, as JSON values."""
    found = {
        name: measure(
            name, checkpoint, test, hidden={}, progress=progress,
            attribute=config.attribute, region=config.region,
        )
        for name, checkpoint in models.items()
    }  # fmt: skip
    pair: dict[str, Any] = {"attribute": config.attribute, "other": config.other}
    evaluations = summarize_all(found, **pair, region=config.region, data="faces")
    differences = differences_of(found, (("guided", "control"), ("control", "before")), **pair)
    return {
        "models": {name: evaluation.to_json() for name, evaluation in evaluations.items()},
        "differences": {name: [asdict(d) for d in of] for name, of in differences.items()},
    }


def _write_page(
    config: DemoConfig,
    frame: Frame,
    models: Mapping[str, Checkpoint],
    test: Prepared,
    evaluations: Mapping[str, Evaluation],
    tables: Sequence[Table],
    histories: Mapping[str, Any],
) -> Path:
    parts = test.subset(config.attribute, config.other)
    chosen = [*parts.both[:5].tolist(), *parts.only_a[:5].tolist()]
    captions = [f"with {config.other}"] * len(parts.both[:5])
    captions += [f"without {config.other}"] * len(parts.only_a[:5])
    faces = explain_dataset(
        models, test, chosen, config.attribute, region=config.region, captions=captions
    )
    face_figure = faces_figure(faces, title=f"Where the network looks for {config.attribute}")
    curve_figure = curves_figure(histories)
    bar_figure = _bars(config, evaluations)
    save_figure(face_figure, frame.out / "faces.png")
    save_figure(curve_figure, frame.out / "curves.png")
    save_figure(bar_figure, frame.out / "reliance.png")
    a, b = config.attribute, config.other
    return frame.write_page(
        "Directing a classifier's attention",
        f"An AlexNet that learned {a} from faces where it nearly always comes with {b}, "
        f"and what one epoch of guidance toward the {config.region} changes.",
        [
            Section(
                "What changed",
                [*_verdict(evaluations), *_findings(config, evaluations)],
                [table.to_html() for table in tables[:2]],
            ),
            Section(
                f"What the score of {a} relies on",
                [
                    "A map shows where the network looks; whether it needs what it sees there "
                    "shows when that is hidden. Each region is painted over with the image's mean "
                    "colour on the same test faces; the drop of the score is given in standard "
                    f"deviations of the score, averaged over faces with {a}.",
                ],
                [tables[2].to_html()],
                [("drop of the score for each hidden region", png_bytes(bar_figure))],
            ),
            Section(
                "Ten test faces",
                [
                    f"The first five test faces with {b} and the first five without; all wear "
                    f"{a}. Below each map: the probability that the model gives to {a}.",
                ],
                pictures=[("ten faces with their Grad-CAM", png_bytes(face_figure))],
            ),
            Section("Training", pictures=[("training curves", png_bytes(curve_figure))]),
        ],
        settings=json.dumps(asdict(config), indent=2),
        by_hand=_commands(config),
        command="fastcam demo",
    )


def _bars(config: DemoConfig, evaluations: Mapping[str, Evaluation]) -> Figure:
    """The drop for each hidden region, control and guided."""
    relied = {
        name: found
        for name in ("control", "guided")
        if (found := evaluations[name].reliance) is not None
    }
    bars: dict[str, list[Bar]] = {
        name: [h.bar for h in reliance.hidden] for name, reliance in relied.items()
    }
    names = [h.name for h in relied["control"].hidden]
    label = f"drop of the score of {config.attribute} when hidden, in its standard deviations"
    return bars_figure(names, bars, label)


def _verdict(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """What changed, in words; what that rests on; and how it was decided."""
    verdict = evaluations["guided"].verdict
    assert verdict is not None, "the demo has a region"
    return [
        f"With guidance, against the control: {verdict.words}.",
        f"{verdict.evidence[0].upper()}{verdict.evidence[1:]} (control → guided, in brackets the "
        "95% interval of the change over images).",
        THRESHOLDS,
    ]


_percent = partial(percent, missing="not defined")


def _findings(config: DemoConfig, evaluations: Mapping[str, Evaluation]) -> list[str]:
    before, control, guided = (evaluations[k] for k in ("before", "control", "guided"))
    return [
        f"Before: {config.attribute} is found in {_percent(before['E1'].accuracy)} of the faces "
        f"with {config.other} and in {_percent(before['E2'].accuracy)} of those without.",
        f"After one epoch, without {config.other}: {_percent(guided['E2'].accuracy)} with guidance,"
        f" {_percent(control['E2'].accuracy)} in the control. On the whole test set: "
        f"{_percent(guided['all'].accuracy)} and {_percent(control['all'].accuracy)}.",
        f"Share of the Grad-CAM energy in the {config.region}: {_percent(guided['a'].energy)} with "
        f"guidance, {_percent(control['a'].energy)} in the control.",
    ]


def _commands(config: DemoConfig) -> str:
    a, b, r = config.attribute, config.other, config.region
    splits = " ".join(f"{share:g}" for share in config.splits)
    tune = f"fastcam finetune before/model.pt faces -a {a} -r {r} --seed {config.seed + 1}"
    compare = "fastcam evaluate before/model.pt control/model.pt guided/model.pt"
    return "\n".join(
        [
            f"fastcam synth faces -n {config.images} --seed {config.seed}"
            f" --splits {splits} --cooccurrence {a}:{b}={config.agreement}",
            f"fastcam train faces -o before --size {config.size} --fit {config.fit}"
            f" --epochs {config.epochs} --patience 0 --batch-size {config.batch_size}"
            f" --lr {config.lr} --clip {config.clip} --schedule {config.schedule}"
            f" --seed {config.seed}",
            f"{tune} -o control --pull 0",
            f"{tune} -o guided" + ("" if config.pull == PULL else f" --pull {config.pull:g}"),
            f"{compare} faces -a {a} -b {b} -r {r}",
        ]
    )
