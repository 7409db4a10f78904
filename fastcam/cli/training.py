"""The verbs that train; their options are the fields of the library's settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastcam._util.architecture import Architecture
from fastcam._util.names import parts
from fastcam.cli.options import REGION_HELP, Data, Landmarks, Out, Start, typer
from fastcam.cli.settings import Settings, field_help, options
from fastcam.training.config import FINETUNE, FOUND, NOTHING, SCRATCH, GuidanceConfig, TrainConfig

# python -OO leaves no texts
_LOSSES = f"{field_help(GuidanceConfig).get('losses', '')} Repeat for several."


@options(
    "settings",
    TrainConfig,
    without=(
        "start",
        "architecture",
        "guidance",
        "w_a",
        "group_dro",
        "group_step",
        "save_minutes",
    ),
    defaults=SCRATCH,
    found=FOUND,
)
def train(
    data: Data,
    out: Out = Path("runs/train"),
    attributes: Annotated[
        str | None,
        typer.Option(help="Names to learn, with commas between; all of the data's by default."),
    ] = None,
    model_options: Annotated[
        list[str] | None,
        typer.Option(
            "--model-option",
            help="An option of the network as name=value, the value in JSON (channels=64); repeat.",
        ),
    ] = None,
    no_multilabel: Annotated[
        bool, typer.Option("--no-multilabel", help="attention: without multi-label classifier.")
    ] = False,
    no_reconstructor: Annotated[
        bool, typer.Option("--no-reconstructor", help="attention: without reconstructor.")
    ] = False,
    landmarks: Landmarks = None,
    *,
    settings: Settings,
) -> None:
    """Train a classifier of all or some attributes from scratch, or from given weights.

    A killed run goes on where it last saved when the same command is given again.

    Example: `fastcam train faces -o runs/train --size 112 --fit face`

    The defaults are for some thousand images. Those of Yang et al. are `--batch-size 256 --lr 0.01
    --schedule constant --epochs 30 --patience 3`.
    """
    tasks = {"multilabel": no_multilabel, "reconstructor": no_reconstructor}
    said = {k: v for k, v in settings.items() if v is not None or k not in FOUND}
    config = TrainConfig.from_scratch(
        data,
        attributes=None if attributes is None else parts(attributes),
        model_options=_model_options(model_options) | {k: False for k, no in tasks.items() if no},
        landmarks=str(landmarks) if landmarks else None,
        **said,
    )
    _run(config, out)


@options("said", Architecture, without=("target_layer",))
@options("guided", GuidanceConfig, without=("grid",))
@options(
    "settings",
    TrainConfig,
    without=(
        "start", "architecture", "attributes", "model", "model_options", "weights", "size", "fit",
        "guidance", "save_minutes",
    ),
    defaults=FINETUNE,
)  # fmt: skip
def finetune(
    checkpoint: Start,
    data: Data,
    attribute: Annotated[
        list[str],
        typer.Option("--attribute", "-a", help="Attribute to guide; repeat for several."),
    ],
    region: Annotated[
        list[str] | None,
        typer.Option(
            "--region",
            "-r",
            help=f"Where to look, one for each attribute; masks of one kind need no name. "
            f"{REGION_HELP}",
        ),
    ] = None,
    out: Out = Path("runs/finetune"),
    losses: Annotated[list[str] | None, typer.Option("--loss", help=_LOSSES)] = None,
    landmarks: Landmarks = None,
    *,
    said: Settings,
    guided: Settings,
    settings: Settings,
) -> None:
    """Fine-tune a classifier so that it looks at a region when it judges an attribute.

    A fair comparison needs a control: the same command with `--pull 0` and another `--out`.

    Example: `fastcam finetune runs/train/model.pt faces -a Wearing_Lipstick -r mouth -o runs/mouth`
    """
    regions = region or [_only_region(data, settings["regions"])] * len(attribute)
    if len(attribute) != len(regions):
        raise ValueError(
            f"give one --region for each --attribute; got {len(attribute)} and {len(regions)}"
        )
    guidance = GuidanceConfig(
        targets=tuple(zip(attribute, regions, strict=True)), losses=tuple(losses or ()), **guided
    )
    architecture = Architecture(**said)
    if architecture.arch is not None:
        settings["architecture"] = architecture
    _run(TrainConfig.finetune(checkpoint, data, guidance, landmarks=landmarks, **settings), out)


def _only_region(data: Path, place: str | None) -> str:
    """The one region of the data."""
    from fastcam.data import open_folder

    known = open_folder(data, regions=place).regions
    if len(known) != 1:
        listed = f"one of {', '.join(known)}" if known else "it has none, see `fastcam init`"
        raise ValueError(f"give one --region for each --attribute: {listed}")
    return known[0]


def _run(config: TrainConfig, out: Path) -> None:
    from fastcam._util.progress import progress_bars
    from fastcam.training import keep_freed_memory, summary
    from fastcam.training import train as run
    from fastcam.training.processes import is_first

    keep_freed_memory()
    with progress_bars() as report:
        result = run(config, out, progress=report)
    if not is_first():
        return
    if result.landmark_sources:
        sources = ", ".join(f"{n} {source}" for source, n in result.landmark_sources.items())
        typer.echo(f"{_what(result.landmark_sources)} of the training images: {sources}")
    kept = " (finished earlier, kept)" if result.kept else ""
    typer.echo(
        f"{result.checkpoint} after {result.epochs} epoch(s){kept}; steps in {result.history}"
    )
    if result.skipped:
        typer.echo(f"skipped: {result.skipped} batch(es) whose gradient is NaN or infinite")
    if config.guidance is not None and result.before is not None:
        hides = config.without != NOTHING
        typer.echo(summary(config.guidance, result.before, result.after, result.biases, hides))


def _what(sources: Mapping[str, int]) -> str:
    """What is counted by source."""
    from fastcam.regions import LandmarkSource

    faces = {kind.name.lower() for kind in LandmarkSource}
    return "landmarks" if set(sources) <= faces else "masks"


def _model_options(given: list[str] | None) -> dict[str, Any]:
    """Options of a network from ``name=value`` texts."""
    import json

    python: dict[str, Any] = {"True": True, "False": False, "None": None}  # or they would be words
    found = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        try:
            found[name.strip()] = python[value] if value in python else json.loads(value)
        except json.JSONDecodeError:
            if not equals or not value:
                raise ValueError(f"--model-option: expected name=value, got {text!r}") from None
            found[name.strip()] = value  # a word needs no quotes
    return found
