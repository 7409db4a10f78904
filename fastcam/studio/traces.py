"""What a fine-tuning leaves in its folder while it goes on, read without its libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastcam._util.files import read_json
from fastcam._util.run_files import CHECKPOINT

MAPS, LOSSES, SCRIPT, PAGE = "maps.json", "losses.json", "commands.sh", "report.html"
#: The networks of a fine-tuning.
BEFORE, CONTROL, AFTER = "before", "control", "after"


@dataclass(frozen=True)
class Moment:
    """The maps of the faces at one step of a run.

    Attributes:
        run: ``"after"`` or ``"control"``.
        step: of the training.
        cams: [F][h][w], normalised Grad-CAM of each face.
        scores: probability of the attribute, F.
    """

    run: str
    step: int
    cams: list[list[list[float]]]
    scores: list[float]


def load_moments(folder: Path) -> list[Moment]:
    """The maps seen so far; none before the first."""
    path = folder / MAPS
    if not path.is_file():
        return []
    values = read_json(path, "maps of the studio", ("faces", "moments"))
    return [Moment(**m) for m in values["moments"]]


def load_rows(folder: Path) -> list[int]:
    """Which test images the maps are of."""
    path = folder / MAPS
    return list(read_json(path, "maps of the studio", ("rows",))["rows"]) if path.is_file() else []


def load_losses(folder: Path) -> dict[str, list[dict[str, float]]]:
    """By run, its records so far."""
    path = folder / LOSSES
    return (
        dict(read_json(path, "losses of the studio", ("runs",))["runs"]) if path.is_file() else {}
    )


def checkpoint_of(folder: Path, run: str) -> Path:
    """Where a run's checkpoint lies."""
    return folder / run / CHECKPOINT
