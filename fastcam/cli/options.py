"""Options that several commands share: one name, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastcam._util.extras import require

typer: Any = require("typer", extra="train")


def _folder(path: Path | None) -> Path | None:
    if path is not None and path.is_file():
        raise ValueError(
            f"{path} is a file; expected the folder of a data set there (checkpoints come first,"
            " the data folder after them)"
        )
    return path


def bare_prefix(path: Path, *suffixes: str) -> Path:
    """The common beginning of several files' names, also where one of them was named."""
    return path.with_suffix("") if path.suffix.lower() in suffixes else path


def print_tables(*tables: Any) -> None:
    """Print tables (:class:`fastcam.report.Table`), whole where the output is no terminal."""
    console = require("rich.console", extra="train").Console()
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = 1000
    for table in tables:
        console.print(table.to_rich())


Data = Annotated[
    Path,
    typer.Argument(
        callback=_folder,
        help="Folder of images with labels, as `fastcam init` describes it; or in CelebA's layout: "
        "img_align_celeba/ or img_align_celeba.zip, list_attr_celeba.txt, list_eval_partition.txt. "
        "`fastcam synth` makes one.",
    ),
]
Faces = Annotated[
    Path,
    typer.Argument(
        callback=_folder,
        help="Folder of faces in CelebA's layout: img_align_celeba/ or img_align_celeba.zip, "
        "list_attr_celeba.txt, list_eval_partition.txt. docs/data.md has the lines that bring "
        "photos of your own into it.",
    ),
]
Start = Annotated[Path, typer.Argument(help="Checkpoint, as `fastcam train` writes it (model.pt).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder that the results go into.")]
Landmarks = Annotated[
    Path | None,
    typer.Option(help="Landmark table in place of DATA/landmarks68.npz (see `fastcam landmarks`)."),
]
Regions = Annotated[
    Path | None,
    typer.Option(
        help="Where the masks lie, for images other than faces: a folder with files named after "
        "the images, or a file in COCO's format."
    ),
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
BatchSize = Annotated[int, typer.Option(help="Images per step.")]
Threshold = Annotated[
    float, typer.Option(help="Share of a map's peak from which a cell counts as attended.")
]
Attribute = Annotated[
    str, typer.Option("--attribute", "-a", help="Attribute whose Grad-CAM is meant.")
]
Split = Annotated[str, typer.Option(help="train, valid, test or all.")]
Limit = Annotated[int | None, typer.Option(help="Only so many images.")]
Processes = Annotated[int | None, typer.Option(help="Processes; all cores by default.")]
DemoWorkers = Annotated[
    int, typer.Option("--workers", help="Processes that draw faces, and threads that read them.")
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Remove what an earlier demo left in the folder.")
]
REGION_HELP = (
    "Names of masks joined by commas; of faces, parts (forehead, left_eyebrow, right_eyebrow, "
    "left_eye, right_eye, nose, left_cheek, right_cheek, mouth, chin; left is the viewer's), or a "
    "rectangle on the template face as x0,y0,x1,y1 in fractions."
)
