"""The verbs that judge and show trained classifiers."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from fastcam._util import checks as check
from fastcam._util.architecture import Architecture
from fastcam.cli.options import (
    REGION_HELP,
    Attribute,
    BatchSize,
    Landmarks,
    Limit,
    Regions,
    Split,
    Start,
    Threshold,
    bare_prefix,
    print_tables,
    typer,
)
from fastcam.cli.settings import Settings, options
from fastcam.training.config import TrainConfig

if TYPE_CHECKING:
    from fastcam.data.hiding import Fill


@options("said", Architecture)
@options("machine", TrainConfig, only=("device", "cache", "workers"))
def evaluate(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Checkpoints to compare, then the data folder.")
    ],
    attribute: Attribute,
    other: Annotated[
        str | None,
        typer.Option(
            "--other",
            "-b",
            help="Label of the data that E1 (with) and E2 (without) differ in, judged or not; or "
            "a column of their table: COLUMN of 0 and 1, or COLUMN=VALUE.",
        ),
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", "-r", help=f"Where to look. {REGION_HELP}")
    ] = None,
    split: Split = "test",
    threshold: Threshold = 0.5,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write PREFIX.json and PREFIX.md.")
    ] = None,
    landmarks: Landmarks = None,
    regions: Regions = None,
    limit: Limit = None,
    batch_size: BatchSize = 64,
    reliance: Annotated[
        bool,
        typer.Option(
            help="Also measure how far the score drops when regions are hidden: REGION, all but "
            "it, and each that the data have (of a face the ten and pairs)."
        ),
    ] = True,
    reliance_images: Annotated[
        int, typer.Option(help="On at most so many images, half with the attribute if possible.")
    ] = 500,
    hide: Annotated[
        list[str] | None, typer.Option("--hide", help="A further region to hide; repeat.")
    ] = None,
    fill: Annotated[
        str, typer.Option(help="What is shown in place of a region: mean (colour), blur or swap.")
    ] = "mean",
    *,
    said: Settings,
    machine: Settings,
) -> None:
    """Measure accuracy, where the Grad-CAM lies, and what the score relies on.

    With two checkpoints or more and a region, also says what changed against the one named
    "control", or the first.

    Example: `fastcam evaluate runs/train/model.pt runs/mouth/model.pt faces -a Wearing_Lipstick
    -b Heavy_Makeup -r mouth`
    """
    from fastcam._util.claim import claim
    from fastcam._util.progress import progress_bars
    from fastcam.evaluation import compare
    from fastcam.evaluation.verdicts import THRESHOLDS

    if reliance:
        check.at_least("--reliance-images", reliance_images, 1)

    if len(checkpoints) < 2:
        raise ValueError("name at least one checkpoint, then the data folder")
    *models, data = checkpoints
    if data.is_file():
        folders = [str(p) for p in models if p.is_dir()]
        found = f" ({', '.join(folders)} is one)" if folders else ""
        raise ValueError(
            f"{data} is a file; the data folder comes last, after the checkpoints{found}"
        )
    out = out and bare_prefix(out, ".json", ".md")
    with progress_bars() as report, claim(out, folder=False) if out else nullcontext():
        result = compare(
            models, data, attribute=attribute, other=other, region=region, split=split,
            threshold=threshold, landmarks=landmarks, regions=regions, limit=limit,
            batch_size=batch_size,
            reliance_images=reliance_images if reliance else 0, hide=hide or (),
            fill=cast("Fill", fill), out=out, progress=report, architecture=Architecture(**said),
            **machine,
        )  # fmt: skip
    print_tables(*result.tables)
    for verdict in result.verdicts:
        typer.echo(f"\n{verdict}")
    if result.verdicts:
        typer.echo(f"\n{THRESHOLDS}")


@options("said", Architecture)
def explain(
    checkpoint: Start,
    images: Annotated[
        list[Path], typer.Argument(help="Image files; aligned faces unless --regions is given.")
    ],
    attribute: Attribute,
    region: Annotated[
        str | None, typer.Option("--region", "-r", help=f"Outlined in blue. {REGION_HELP}")
    ] = None,
    beside: Annotated[
        list[Path] | None, typer.Option("--beside", help="A further checkpoint to show; repeat.")
    ] = None,
    regions: Regions = None,
    detect: Annotated[
        bool,
        typer.Option("--detect", help="Find each face's landmarks with dlib (else: the template)."),
    ] = False,
    threshold: Threshold = 0.5,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write: .png, .jpg, .svg or .pdf.")
    ] = Path("explanation.png"),
    *,
    said: Settings,
) -> None:
    """Draw where a classifier looks in some images.

    Example: `fastcam explain runs/train/model.pt faces/img_align_celeba/000001.jpg
    -a Wearing_Lipstick -r mouth --beside runs/mouth/model.pt`
    """
    from fastcam._util.claim import claim
    from fastcam._util.progress import labelled, progress_bars
    from fastcam.evaluation.explain import explain_files

    with progress_bars() as report, claim(out, folder=False):
        path = explain_files(
            [checkpoint, *(beside or [])], images, attribute, out, region=region, regions=regions,
            detect=detect, threshold=threshold, architecture=Architecture(**said),
            progress=labelled(report, "explaining images"),
        )  # fmt: skip
    typer.echo(f"{len(images)} image(s) explained in {path}")
