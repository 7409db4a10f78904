"""What a job does, by its kind: through the same functions as the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastcam._util.files import write_marked, write_text
from fastcam._util.progress import labelled
from fastcam._util.run_files import CHECKPOINT
from fastcam.evaluation.splits import prepare_split
from fastcam.faces import generate
from fastcam.models import load_checkpoint
from fastcam.studio.commands import evaluate_words, finetune_words, script
from fastcam.studio.jobs import Job
from fastcam.studio.judging import chosen_faces, judge
from fastcam.studio.recipes import Recipe
from fastcam.studio.report import report_page
from fastcam.studio.settings import StartConfig
from fastcam.studio.survey import survey
from fastcam.studio.traces import AFTER, BEFORE, CONTROL, PAGE, SCRIPT
from fastcam.studio.tuning import Watcher, machine
from fastcam.studio.worker import Progress
from fastcam.training import TrainConfig, train


def start(job: Job, arguments: dict[str, Any], progress: Progress) -> None:
    """Draw the faces and train a network on them.

    Args:
        job: its folder gets ``network``.
        arguments: ``faces``, the folder of the faces; ``config``, a :class:`StartConfig`;
            ``model_options``, of the network.
        progress: is told.
    """
    config = StartConfig(**{**arguments["config"], "splits": tuple(arguments["config"]["splits"])})
    progress.stage(f"drawing {config.images} faces", 1, 2)
    data = generate(
        arguments["faces"],
        config.images,
        seed=config.seed,
        cooccurrence={(config.attribute, config.other): config.agreement},
        splits=config.splits,
        workers=2,
        progress=labelled(progress, "faces") or False,
    )
    progress.stage("training a small network on them", 2, 2)
    network = {
        name: getattr(config, name)
        for name in (
            "model", "size", "fit", "epochs", "batch_size", "lr", "clip", "schedule", "seed"
        )
    }  # fmt: skip
    options = arguments.get("model_options")
    settings = TrainConfig(
        data=str(data), patience=0, model_options=options, workers=1, cache=False, **network
    )
    train(settings, job.folder / "network", progress=_passes(progress, config.epochs))


def _passes(progress: Progress, epochs: int) -> Any:
    """One bar over all passes: a training reports each by itself."""

    def report(what: str, done: int, total: int, note: str = "") -> None:
        if what.startswith("epoch"):
            number = int(what.split()[1]) - 1
            progress(what, number * total + done, epochs * total, note)
        else:
            progress(f"{what}: {done} of {total}", 0, 1)

    return report


def look(job: Job, arguments: dict[str, Any], progress: Progress) -> None:
    """Look at many images for one attribute, see :func:`fastcam.studio.survey.survey`."""
    progress.stage("looking at many images", 1, 1)
    found = survey(
        Path(arguments["checkpoint"]), Path(arguments["data"]), arguments["attribute"],
        images=arguments["images"], hidden=arguments["hidden"], progress=progress,
    )  # fmt: skip
    found.save(job.folder)


def tune(job: Job, arguments: dict[str, Any], progress: Progress) -> None:
    """Fine-tune, fine-tune a control, and judge both; each that is done is kept.

    Args:
        job: its folder gets the runs ``after`` and ``control``, the judgement, the script and the
            page.
        arguments: ``start`` (checkpoint), ``data``, ``recipe``.
        progress: is told.
    """
    recipe = Recipe.from_json(arguments["recipe"])
    first, data = Path(arguments["start"]), Path(arguments["data"])
    progress.stage("opening the images", 1, 4)
    before = load_checkpoint(first)
    faces = prepare_split(before, data, "test", regions=[recipe.region], limit=2000, cache=False)
    rows = chosen_faces(faces, recipe)
    watcher = Watcher(
        job.folder, first, faces, rows, recipe.attribute, _passes(progress, recipe.epochs)
    )
    configs = {
        AFTER: recipe.config(first, data, **machine(first)),
        CONTROL: recipe.config(first, data, control=True, **machine(first)),
    }
    paths = {BEFORE: first}
    words = {
        AFTER: f"fine-tuning toward {recipe.region}",
        CONTROL: "the same without guidance (control)",
    }
    for step, (run, config) in enumerate(configs.items(), 2):
        progress.stage(words[run], step, 4)
        paths[run] = watcher.follow(run, config)
    ordered = {name: paths[name] for name in (BEFORE, CONTROL, AFTER)}
    progress.stage("judging", 4, 4)
    judgement = judge(ordered, data, recipe, progress=progress)
    lines = {
        "the fine-tuning": finetune_words(configs[AFTER], AFTER),
        "the same without guidance": finetune_words(configs[CONTROL], CONTROL),
        "the judging": evaluate_words(
            [str(first), f"{CONTROL}/{CHECKPOINT}", f"{AFTER}/{CHECKPOINT}"], str(data),
            attribute=recipe.attribute, other=recipe.other, region=recipe.region, out="judged",
        ),
    }  # fmt: skip
    write_text(job.folder / SCRIPT, script(lines))
    page = report_page(ordered, data, recipe, judgement, job.folder, script(lines))
    write_marked(job.folder / PAGE, page)
    judgement.save(job.folder)


#: By the kind that a job names.
KINDS: dict[str, Callable[[Job, dict[str, Any], Progress], None]] = {
    "start": start,
    "look": look,
    "tune": tune,
}
