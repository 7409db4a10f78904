"""Figures without pyplot: made, drawn by Agg, and written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from fastcam._util.files import MARK, check_target, marked, write_atomic

#: Colours that tell models apart, also for readers who see few colours (Okabe and Ito).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
#: Formats of figures by the suffix of the file's name.
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".svg": "svg", ".pdf": "pdf"}
_SOFTWARE = 305  # Exif's tag
ATTENDED, REGION = "#e02020", "#1f6fff"


def literal(text: str) -> str:
    """A file's name or the like as it stands, where Matplotlib would read formulas into it."""
    readable = text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
    shown = "".join(c if c.isprintable() else "�" for c in readable)
    return shown.replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file, without the date, so that the same figure gives the same bytes."""
    return _encoded(figure, ".png", dpi)


def check_figure_path(path: str | Path) -> Path:
    """Whether a figure can be written there, before it is drawn.

    Raises:
        ValueError: a folder, or a suffix of no format that figures are written in.
        FileExistsError: a file lies there that fastcam did not write.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"out: expected a picture file to write, got the folder {path}")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(
            f"out: expected a file name ending in {', '.join(FORMATS)}, got {str(path)!r}"
        )
    check_target(path, marked)
    return path


def save_figure(figure: Figure, path: str | Path, dpi: int = 110) -> Path:
    """Write the figure atomically, in the format of the file name's suffix.

    Raises:
        ValueError, FileExistsError: see :func:`check_figure_path`.
        OSError: it cannot be written; what was there before is kept.
    """
    path = check_figure_path(path)
    data = _encoded(figure, path.suffix.lower(), dpi)
    return write_atomic(path, lambda file: file.write(data), ours=marked)


def _encoded(figure: Figure, suffix: str, dpi: int) -> bytes:
    buffer, kind = io.BytesIO(), FORMATS[suffix]
    options: dict[str, Any] = {}
    if kind == "jpeg":  # Matplotlib has no metadata for it, Pillow has
        exif = Image.Exif()
        exif[_SOFTWARE] = MARK
        options["pil_kwargs"] = {"quality": 92, "exif": exif}
    elif kind == "png":
        options["metadata"] = {"Software": MARK}
    elif kind == "svg":
        options["metadata"] = {"Creator": MARK, "Date": None}
    else:
        options["metadata"] = {"Creator": MARK, "CreationDate": None}
    with rc_context({"svg.hashsalt": MARK}):  # the ids in an SVG file are random otherwise
        figure.savefig(buffer, format=kind, dpi=dpi, **options)
    return buffer.getvalue()
