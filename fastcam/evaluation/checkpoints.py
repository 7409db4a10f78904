"""Several checkpoints on the same images, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastcam._util.files import check_target, commented, json_with, write_json, write_marked
from fastcam._util.progress import Report, labelled
from fastcam.evaluation.cam_maps import ScoresNotFinite
from fastcam.evaluation.result import KEYS
from fastcam.evaluation.scores import evaluate
from fastcam.evaluation.tables import comparison
from fastcam.models import load_checkpoint
from fastcam.report.table import Table


def pick_device(name: str) -> torch.device:
    """``"auto"`` is the GPU where there is one, else the CPU; any other name is torch's own."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda is not available: this torch sees no GPU")
    return device


def compare(
    checkpoints: Sequence[str | Path] | Mapping[str, str | Path],
    data: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Table:
    """Evaluate checkpoints and put them side by side.

    Args:
        checkpoints: paths, or names with paths; a path alone is named by its folder.
        data: folder in the CelebA layout.
        out: also write ``out.json`` (every evaluation) and ``out.md`` (the table).
        device: see :func:`pick_device`.
        progress: called with (what, done, total).
        options: of :func:`fastcam.evaluation.evaluate`.

    Raises:
        FileExistsError: ``out.json`` or ``out.md`` is there and not fastcam's.
    """
    if out is not None:
        check_prefix(out)
    named = dict(checkpoints) if isinstance(checkpoints, Mapping) else name_checkpoints(checkpoints)
    where = pick_device(device)
    results = {}
    for name, path in named.items():
        report = labelled(progress, f"evaluating {name}")
        model = load_checkpoint(path)
        try:
            results[name] = evaluate(model, data, device=where, progress=report, **options)
        except ScoresNotFinite as error:
            raise ScoresNotFinite(f"{path}: {error}") from None
    table = comparison(results)
    if out is not None:
        base = str(out)
        values = {name: result.to_json() for name, result in results.items()}
        write_json(f"{base}.json", values, ours=_OURS[".json"])
        write_marked(f"{base}.md", table.to_markdown())
    return table


_OURS = {".json": json_with(*KEYS, each=True), ".md": commented}


def check_prefix(out: str | Path) -> None:
    """Refuse, before the work, to write where files lie that fastcam did not write."""
    for suffix, ours in _OURS.items():
        check_target(f"{out}{suffix}", ours)


def name_checkpoints(paths: Sequence[str | Path]) -> dict[str, str | Path]:
    """Paths by their folder's name, or by all of the path where folders repeat."""
    folders = [Path(p).resolve().parent.name for p in paths]
    unique = len(set(folders)) == len(folders)
    return {(f if unique else str(p)): p for f, p in zip(folders, paths, strict=True)}
