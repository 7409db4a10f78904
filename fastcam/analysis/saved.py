"""Results of an analysis on disk: figure (PNG), tables (Markdown), and their numbers (JSON)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from matplotlib.figure import Figure

from fastcam._util.files import (
    check_targets,
    commented,
    json_with,
    marked,
    read_json,
    remove_ours,
    write_json,
    write_marked,
)
from fastcam.report import Table, save_figure

_OURS = {".png": marked, ".md": commented, ".json": json_with("settings", "tables", "values")}


class Analysis(Protocol):
    """A result with a figure, tables and JSON values."""

    def figure(self) -> Figure: ...

    def tables(self) -> list[Table]: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Saved:
    """An analysis on disk.

    Attributes:
        figure: path of the PNG file.
        tables: as they stand in the Markdown file.
        settings: that it was made with.
        values: what the analysis' ``to_json`` gave.
    """

    figure: Path
    tables: list[Table]
    settings: dict[str, Any]
    values: dict[str, Any]


def check_prefix(prefix: str | Path) -> None:
    """Refuse, before the work, to write where files lie that fastcam did not write.

    Raises:
        FileExistsError: as :func:`save` would.
    """
    check_targets(prefix, _OURS)


def save(
    analysis: Analysis, prefix: str | Path, settings: Mapping[str, Any] | None = None
) -> Saved:
    """Write ``prefix.png``, ``prefix.md`` and, last, ``prefix.json``, each atomically.

    Args:
        analysis: the result.
        prefix: path without suffix.
        settings: JSON values that decided the result; they are kept in the JSON file.

    Raises:
        FileExistsError: one of the files is there and not fastcam's.
        OSError: a file cannot be written; what was there before is kept.
    """
    check_prefix(prefix)
    tables = analysis.tables()
    figure = save_figure(analysis.figure(), f"{prefix}.png")
    write_marked(f"{prefix}.md", "\n".join(t.to_markdown() for t in tables))
    content = {
        "settings": dict(settings or {}),
        "tables": [asdict(t) for t in tables],
        "values": _finite(analysis.to_json()),
    }
    write_json(f"{prefix}.json", content, ours=_OURS[".json"])
    return Saved(figure, tables, content["settings"], content["values"])


def remove_analysis(prefix: str | Path) -> None:
    """Remove what :func:`save` wrote, and nothing else of that name."""
    path = Path(prefix)
    remove_ours(path.parent, {f"{path.name}{suffix}": ours for suffix, ours in _OURS.items()})


def load(prefix: str | Path) -> Saved | None:
    """What :func:`save` wrote, or None where a part of it is missing."""
    files = [Path(f"{prefix}.{suffix}") for suffix in ("png", "md", "json")]
    if not all(f.is_file() for f in files):
        return None
    stored = read_json(files[2], "analysis", ("settings", "tables", "values"))
    tables = [Table(**t) for t in stored["tables"]]
    return Saved(files[0], tables, stored["settings"], stored["values"])


def _finite(value: Any) -> Any:
    """NaN as null: JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
