"""Figures without pyplot: made, drawn by Agg, and written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastcam._files import write_atomic

#: Colours that tell models apart, also for readers who see few colours (Okabe and Ito).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
ATTENDED, REGION = "#e02020", "#1f6fff"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file, without the date, so that the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: str | Path, dpi: int = 110) -> Path:
    """Write the figure as a PNG file, atomically."""
    data = png_bytes(figure, dpi)
    return write_atomic(path, lambda temporary: temporary.write_bytes(data))
