"""Evaluation of classifiers: accuracy, also where two attributes part, and Grad-CAM in a region."""

from __future__ import annotations

from fastcam._util.extras import require

for _module in ("torchvision", "torchmetrics"):
    require(_module, extra="train")

from fastcam.evaluation.bootstrap import bootstrap_interval  # noqa: E402
from fastcam.evaluation.cam_maps import (  # noqa: E402
    AttentionMaps,
    attention_iou,
    attention_maps,
    energy_share,
    peak_in_region,
    set_iou,
    size_corrected_energy,
)
from fastcam.evaluation.checkpoints import Comparison, compare, pick_device  # noqa: E402
from fastcam.evaluation.difference import (  # noqa: E402
    Difference,
    accuracy_differences,
    difference_table,
)
from fastcam.evaluation.drops import (  # noqa: E402
    RegionDrops,
    region_drops,
    reliance,
    score_drops,
)
from fastcam.evaluation.metrics import (  # noqa: E402
    CamAttentionIoU,
    CamEnergy,
    CamIoU,
    CamPointingGame,
    CamSizeCorrectedEnergy,
)
from fastcam.evaluation.operating_point import equal_specificity  # noqa: E402
from fastcam.evaluation.predictions import Predictions, predict  # noqa: E402
from fastcam.evaluation.reliance_result import (  # noqa: E402
    HiddenRegion,
    Reliance,
    reliance_table,
)
from fastcam.evaluation.result import EqualSpecificity, Evaluation, SubsetScore  # noqa: E402
from fastcam.evaluation.scores import evaluate, summarize  # noqa: E402
from fastcam.evaluation.tables import comparison  # noqa: E402
from fastcam.evaluation.verdicts import Verdict, verdict  # noqa: E402

__all__ = [
    "AttentionMaps",
    "CamAttentionIoU",
    "CamEnergy",
    "CamIoU",
    "CamPointingGame",
    "CamSizeCorrectedEnergy",
    "Comparison",
    "Difference",
    "EqualSpecificity",
    "Evaluation",
    "HiddenRegion",
    "Predictions",
    "RegionDrops",
    "Reliance",
    "SubsetScore",
    "Verdict",
    "accuracy_differences",
    "attention_iou",
    "attention_maps",
    "bootstrap_interval",
    "compare",
    "comparison",
    "difference_table",
    "energy_share",
    "equal_specificity",
    "evaluate",
    "peak_in_region",
    "pick_device",
    "predict",
    "region_drops",
    "reliance",
    "reliance_table",
    "score_drops",
    "set_iou",
    "size_corrected_energy",
    "summarize",
    "verdict",
]
