"""How well a classifier does, overall and where two attributes part, and where it looks."""

from __future__ import annotations

from fastcam._extras import require

for _module in ("torchvision", "torchmetrics"):
    require(_module, extra="train")

from fastcam.evaluation.attention import (  # noqa: E402
    AttentionMaps,
    attention_maps,
    energy_share,
    set_iou,
)
from fastcam.evaluation.compare import compare, pick_device  # noqa: E402
from fastcam.evaluation.evaluate import Predictions, evaluate, predict, summarize  # noqa: E402
from fastcam.evaluation.result import Evaluation, SubsetScore  # noqa: E402
from fastcam.evaluation.tables import Table, comparison  # noqa: E402

__all__ = [
    "AttentionMaps",
    "Evaluation",
    "Predictions",
    "SubsetScore",
    "Table",
    "attention_maps",
    "compare",
    "comparison",
    "energy_share",
    "evaluate",
    "pick_device",
    "predict",
    "set_iou",
    "summarize",
]
