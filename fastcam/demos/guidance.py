"""The whole path on synthetic faces: train, direct the attention, and compare with a control.

Faces are drawn on which lipstick and heavy make-up nearly always come together; an AlexNet trained
on them judges lipstick by the make-up. One more epoch with the Grad-CAM IoU loss tells it to look
at the mouth; a control gets the same epoch, with the same batches and dropout, without that loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastcam import __version__
from fastcam._defaults import PULL
from fastcam._util.claim import claim
from fastcam._util.extras import require
from fastcam._util.files import (
    check_target,
    commented,
    json_with,
    marked,
    read_json,
    remove_ours,
    write_json,
    write_marked,
)
from fastcam._util.progress import Report, labelled, timed

for _module in ("torchvision", "lightning", "torchmetrics", "matplotlib"):
    require(_module, extra="train")

import torch  # noqa: E402

from fastcam.data import CelebA, PreparedFaces  # noqa: E402
from fastcam.evaluation import (  # noqa: E402
    Difference,
    Evaluation,
    Predictions,
    accuracy_differences,
    comparison,
    difference_table,
    predict,
    summarize,
)
from fastcam.evaluation.explain import explain_dataset  # noqa: E402
from fastcam.faces import generate  # noqa: E402
from fastcam.faces.writer import remove_faces  # noqa: E402
from fastcam.models import Checkpoint, load_checkpoint  # noqa: E402
from fastcam.report import (  # noqa: E402
    Section,
    Table,
    curves_figure,
    faces_figure,
    html_page,
    png_bytes,
    save_figure,
)
from fastcam.training import GuidanceConfig, TrainConfig, train  # noqa: E402
from fastcam.training.callbacks import read_history  # noqa: E402
from fastcam.training.run import remove_run  # noqa: E402

Say = Callable[[str], None]
RUNS = ("before", "control", "guided")
_OURS = {
    "evaluation.json": json_with("settings", "models", "differences"),
    "table.md": commented,
    "faces.png": marked,
    "curves.png": marked,
    "index.html": commented,
}


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo.

    Attributes:
        images: synthetic faces in all.
        splits: their shares for training, validation and test. Most are for the test: one in
            twenty has ``attribute`` without ``other``, and those are what the demo is about.
        agreement: probability that ``other`` agrees with ``attribute`` in every image; 0.9 is
            about the correlation of lipstick and heavy make-up in CelebA (φ = 0.8).
        attribute, other, region: what is judged, what misleads, and where to look instead.
        model, size, fit, batch_size, lr, clip, epochs: of the training from scratch, on all 40
            attributes: they give the features that guidance can then choose from.
        schedule: of its learning rate.
        pull: how hard guidance draws, see :class:`fastcam.training.GuidanceConfig`. The rest of the
            fine-tuning is as ``fastcam finetune`` does it by default.
        seed: of everything.
    """

    images: int = 7000
    splits: tuple[float, float, float] = (0.34, 0.03, 0.63)
    agreement: float = 0.9
    attribute: str = "Wearing_Lipstick"
    other: str = "Heavy_Makeup"
    region: str = "mouth"
    model: str = "alexnet"
    size: int = 128
    fit: str = "face"
    batch_size: int = 32
    lr: float = 0.2
    clip: float = 1.0
    epochs: int = 8
    schedule: str = "cosine"
    pull: float = PULL
    seed: int = 0


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, and its page.

    Attributes:
        evaluations, table: on the test split, by ``"before"``, ``"control"`` and ``"guided"``.
        differences, difference_table: guided minus control, and control minus before.
        page: the HTML page.
    """

    evaluations: Mapping[str, Evaluation]
    table: Table
    differences: Mapping[str, Sequence[Difference]]
    difference_table: Table
    page: Path


def demo(
    out: str | Path,
    config: DemoConfig | None = None,
    *,
    workers: int = 2,
    progress: Report | None = None,
    say: Say = print,
) -> DemoResult:
    """Run the demo; stages that an earlier run with the same settings finished are kept.

    Args:
        out: folder for everything: ``index.html``, ``table.md``, ``faces.png``, ``curves.png``,
            ``evaluation.json``, and a folder for each stage.
        config: the settings.
        workers: processes that draw faces, and threads that read them.
        progress: called with (what, done, total).
        say: told what happens, one line at a time.

    Raises:
        ValueError: ``out`` holds a demo with other settings.
        FileExistsError: ``out`` holds a file that fastcam did not write and would have to replace.
        BlockingIOError: another process writes there.
        OSError: a file cannot be written; finished stages are kept.
    """
    with claim(out):
        for name, ours in _OURS.items():
            check_target(Path(out) / name, ours)
        return _demo(config or DemoConfig(), Path(out), workers, progress, timed(say))


def _demo(
    config: DemoConfig, out: Path, workers: int, progress: Report | None, stage: Say
) -> DemoResult:
    stage(f"drawing {config.images} faces")
    data = generate(
        out / "faces",
        config.images,
        seed=config.seed,
        cooccurrence={(config.attribute, config.other): config.agreement},
        splits=config.splits,
        workers=workers,
        progress=labelled(progress, "drawing faces") or False,
    )
    stage(f"training {config.model} at {config.size} px for {config.epochs} epochs")
    runs = {"before": train(_training(config, data, workers), out / "before", progress=progress)}
    start = runs["before"].checkpoint
    stage("fine-tuning without guidance (control)")
    runs["control"] = train(
        _tuning(config, data, start, 0.0, workers), out / "control", progress=progress
    )
    stage(f"fine-tuning toward the {config.region}")
    runs["guided"] = train(
        _tuning(config, data, start, config.pull, workers), out / "guided", progress=progress
    )
    stage("evaluating")
    models = {name: load_checkpoint(run.checkpoint) for name, run in runs.items()}
    test = _test_images(models["before"], data, workers, progress)
    evaluations, differences = _evaluate(config, models, test, out / "evaluation.json", progress)
    tables = (
        comparison(evaluations),
        difference_table(differences, attribute=config.attribute, other=config.other),
    )
    write_marked(out / "table.md", "\n".join(table.to_markdown() for table in tables))
    stage("drawing figures")
    histories = {name: read_history(run.history) for name, run in runs.items()}
    page = _write_page(config, out, models, test, evaluations, tables, histories)
    stage(f"done: {page}")
    return DemoResult(evaluations, tables[0], differences, tables[1], page)


def clear(out: str | Path) -> None:
    """Remove a demo from its folder, and nothing that a demo does not write."""
    out = Path(out)
    with claim(out):
        remove_faces(out / "faces")
        for name in RUNS:
            remove_run(out / name)
        remove_ours(out, _OURS)


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


def _test_images(
    checkpoint: Checkpoint, data: Path, workers: int, progress: Report | None
) -> PreparedFaces:
    report = labelled(progress, "reading test images")
    wanted = checkpoint.preprocessing
    return PreparedFaces(
        CelebA(data, "test", attributes=checkpoint.attributes),
        wanted.size,
        fit=wanted.fit,
        cache=True,
        workers=workers,
        progress=report,
    )


def _evaluate(
    config: DemoConfig,
    models: Mapping[str, Checkpoint],
    test: PreparedFaces,
    path: Path,
    progress: Report | None,
) -> tuple[dict[str, Evaluation], dict[str, tuple[Difference, ...]]]:
    """Evaluate every model, or read what an earlier run with the same settings found."""
    settings = json.loads(json.dumps({**asdict(config), "version": __version__}))
    if path.is_file():
        stored = read_json(path, "evaluation of a demo", ("settings", "models", "differences"))
        if stored["settings"] == settings:
            differences = stored["differences"].items()
            return (
                {k: Evaluation.from_json(v) for k, v in stored["models"].items()},
                {k: tuple(Difference(**d) for d in v) for k, v in differences},
            )
    what: dict[str, Any] = {"attribute": config.attribute, "region": config.region}
    found: dict[str, Predictions] = {}
    for name, checkpoint in models.items():
        report = labelled(progress, f"evaluating {name}")
        found[name] = predict(checkpoint, test, **what, progress=report)
    names = models["before"].attributes
    evaluations = {
        name: summarize(predictions, names, **what, other=config.other, data="faces")
        for name, predictions in found.items()
    }
    differences = {
        f"{one} − {other}": accuracy_differences(
            found[one], found[other], names, attribute=config.attribute, other=config.other
        )
        for one, other in (("guided", "control"), ("control", "before"))
    }
    content = {
        "settings": settings,
        "models": {name: e.to_json() for name, e in evaluations.items()},
        "differences": {name: [asdict(d) for d in ds] for name, ds in differences.items()},
    }
    write_json(path, content, ours=_OURS[path.name])
    return evaluations, differences


def _write_page(
    config: DemoConfig,
    out: Path,
    models: Mapping[str, Checkpoint],
    test: PreparedFaces,
    evaluations: Mapping[str, Evaluation],
    tables: tuple[Table, Table],
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
    save_figure(face_figure, out / "faces.png")
    save_figure(curve_figure, out / "curves.png")
    a, b = config.attribute, config.other
    text = html_page(
        "Directing a classifier's attention",
        f"An AlexNet that learned {a} from faces where it nearly always comes with {b}, "
        f"and what one epoch of guidance toward the {config.region} changes.",
        [
            Section(
                "What changed",
                _findings(config, evaluations),
                [table.to_html() for table in tables],
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
            Section(
                "Settings",
                [f"Synthetic faces only; nothing was downloaded. torch {torch.__version__}."],
                code=json.dumps(asdict(config), indent=2),
            ),
            Section("The same by hand", code=_commands(config)),
        ],
        footer=f"Made by fastcam {__version__}, `fastcam demo`.",
    )
    return write_marked(out / "index.html", text)


def _percent(value: float | None) -> str:
    return "not defined" if value is None else f"{100 * value:.1f}%"


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
