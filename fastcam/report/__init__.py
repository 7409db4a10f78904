"""Tables, figures (matplotlib without pyplot, so no global state) and HTML pages.

Names are imported on first use: a table needs no matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcam._util.lazy import attach

if TYPE_CHECKING:
    from fastcam.report.bars import bars_figure as bars_figure
    from fastcam.report.curves import curves_figure as curves_figure
    from fastcam.report.faces import ExplainedFace as ExplainedFace
    from fastcam.report.faces import faces_figure as faces_figure
    from fastcam.report.figure import check_figure_path as check_figure_path
    from fastcam.report.figure import png_bytes as png_bytes
    from fastcam.report.figure import save_figure as save_figure
    from fastcam.report.page import Section as Section
    from fastcam.report.page import html_page as html_page
    from fastcam.report.table import Table as Table

_HOMES = {
    "ExplainedFace": "faces",
    "Section": "page",
    "Table": "table",
    "bars_figure": "bars",
    "check_figure_path": "figure",
    "curves_figure": "curves",
    "faces_figure": "faces",
    "html_page": "page",
    "png_bytes": "figure",
    "save_figure": "figure",
}

__all__ = sorted(_HOMES)
__getattr__, __dir__ = attach(
    __name__, _HOMES, needs={m: ["matplotlib"] for m in ("bars", "curves", "faces", "figure")}
)
