"""Pictures of attention and training; matplotlib without pyplot, so no global state is touched."""

from __future__ import annotations

from fastcam._util.extras import require

for _module in ("matplotlib", "torchvision"):
    require(_module, extra="train")

from fastcam.evaluation.explain import explain_dataset, explain_files, explain_image  # noqa: E402
from fastcam.report.curves import curves_figure  # noqa: E402
from fastcam.report.faces import ExplainedFace, faces_figure  # noqa: E402
from fastcam.report.figure import check_figure_path, png_bytes, save_figure  # noqa: E402
from fastcam.report.page import Section, html_page  # noqa: E402

__all__ = [
    "ExplainedFace",
    "Section",
    "check_figure_path",
    "curves_figure",
    "explain_dataset",
    "explain_files",
    "explain_image",
    "faces_figure",
    "html_page",
    "png_bytes",
    "save_figure",
]
