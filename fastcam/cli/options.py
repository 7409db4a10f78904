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


Data = Annotated[
    Path,
    typer.Argument(
        callback=_folder,
        help="Folder in CelebA's layout: img_align_celeba/ or img_align_celeba.zip, "
        "list_attr_celeba.txt, list_eval_partition.txt. `fastcam synth` makes one.",
    ),
]
Start = Annotated[Path, typer.Argument(help="Checkpoint, as `fastcam train` writes it (model.pt).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder that the results go into.")]
Landmarks = Annotated[
    Path | None,
    typer.Option(help="Landmark table in place of DATA/landmarks68.npz (see `fastcam landmarks`)."),
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Workers = Annotated[int, typer.Option(help="Threads that read images.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option",
        help="An option of the network as name=value, the value in JSON (channels=64); repeat.",
    ),
]
Epochs = Annotated[int, typer.Option(help="At most so many passes over the training images.")]
Patience = Annotated[
    int,
    typer.Option(
        help="Stop after so many epochs without a lower validation loss and keep the best; "
        "0 runs all epochs and keeps the last."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Images per step.")]
Rate = Annotated[float, typer.Option("--lr", help="Learning rate of SGD.")]
Momentum = Annotated[float, typer.Option(help="Momentum of SGD.")]
Decay = Annotated[float, typer.Option(help="Weight decay of SGD.")]
Schedule = Annotated[
    str, typer.Option(help="Learning rate: constant, or cosine (falling to 0 at the end).")
]
Clip = Annotated[
    float, typer.Option(help="Cut the gradient's norm down to this; 0 leaves it as it is.")
]
Augment = Annotated[
    str,
    typer.Option(help="none, flip, or full (flip, small motions, light). Regions move along."),
]
Precision = Annotated[
    str, typer.Option(help="float32, or bfloat16 (autocast; faster where the processor has it).")
]
LimitTrain = Annotated[int | None, typer.Option(help="Only the first so many training images.")]
LimitValid = Annotated[int | None, typer.Option(help="Only the first so many validation images.")]
Threshold = Annotated[
    float, typer.Option(help="Share of a map's peak from which a cell counts as attended.")
]
Attribute = Annotated[
    str, typer.Option("--attribute", "-a", help="Attribute whose Grad-CAM is meant.")
]
Split = Annotated[str, typer.Option(help="train, valid, test or all.")]
REGION_HELP = (
    "Parts joined by commas (forehead, left_eyebrow, right_eyebrow, left_eye, right_eye, nose, "
    "left_cheek, right_cheek, mouth, chin; left is the viewer's), or a rectangle on the template "
    "face as x0,y0,x1,y1 in fractions."
)
