"""Evaluation of classifiers: accuracy, also where two attributes part, and Grad-CAM in a region.

Names are imported on first use: maps of single images need no torchmetrics, which takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcam._util.extras import require
from fastcam._util.lazy import attach

require("torchvision", extra="train")

if TYPE_CHECKING:
    from fastcam.evaluation.bootstrap import bootstrap_interval as bootstrap_interval
    from fastcam.evaluation.cam_maps import AttentionMaps as AttentionMaps
    from fastcam.evaluation.cam_maps import attention_iou as attention_iou
    from fastcam.evaluation.cam_maps import attention_maps as attention_maps
    from fastcam.evaluation.cam_maps import energy_share as energy_share
    from fastcam.evaluation.cam_maps import peak_in_region as peak_in_region
    from fastcam.evaluation.cam_maps import set_iou as set_iou
    from fastcam.evaluation.cam_maps import size_corrected_energy as size_corrected_energy
    from fastcam.evaluation.checkpoints import Comparison as Comparison
    from fastcam.evaluation.checkpoints import compare as compare
    from fastcam.evaluation.difference import Difference as Difference
    from fastcam.evaluation.difference import accuracy_differences as accuracy_differences
    from fastcam.evaluation.difference import difference_table as difference_table
    from fastcam.evaluation.drops import RegionDrops as RegionDrops
    from fastcam.evaluation.drops import region_drops as region_drops
    from fastcam.evaluation.drops import reliance as reliance
    from fastcam.evaluation.drops import score_drops as score_drops
    from fastcam.evaluation.given import pick_device as pick_device
    from fastcam.evaluation.metrics import CamAttentionIoU as CamAttentionIoU
    from fastcam.evaluation.metrics import CamEnergy as CamEnergy
    from fastcam.evaluation.metrics import CamIoU as CamIoU
    from fastcam.evaluation.metrics import CamPointingGame as CamPointingGame
    from fastcam.evaluation.metrics import CamSizeCorrectedEnergy as CamSizeCorrectedEnergy
    from fastcam.evaluation.operating_point import equal_specificity as equal_specificity
    from fastcam.evaluation.predictions import Predictions as Predictions
    from fastcam.evaluation.predictions import predict as predict
    from fastcam.evaluation.reliance_result import HiddenRegion as HiddenRegion
    from fastcam.evaluation.reliance_result import Reliance as Reliance
    from fastcam.evaluation.reliance_result import reliance_table as reliance_table
    from fastcam.evaluation.result import EqualSpecificity as EqualSpecificity
    from fastcam.evaluation.result import Evaluation as Evaluation
    from fastcam.evaluation.result import SubsetScore as SubsetScore
    from fastcam.evaluation.scores import evaluate as evaluate
    from fastcam.evaluation.scores import summarize as summarize
    from fastcam.evaluation.tables import comparison as comparison
    from fastcam.evaluation.verdicts import Verdict as Verdict
    from fastcam.evaluation.verdicts import verdict as verdict

_HOMES = {
    "AttentionMaps": "cam_maps",
    "CamAttentionIoU": "metrics",
    "CamEnergy": "metrics",
    "CamIoU": "metrics",
    "CamPointingGame": "metrics",
    "CamSizeCorrectedEnergy": "metrics",
    "Comparison": "checkpoints",
    "Difference": "difference",
    "EqualSpecificity": "result",
    "Evaluation": "result",
    "HiddenRegion": "reliance_result",
    "Predictions": "predictions",
    "RegionDrops": "drops",
    "Reliance": "reliance_result",
    "SubsetScore": "result",
    "Verdict": "verdicts",
    "accuracy_differences": "difference",
    "attention_iou": "cam_maps",
    "attention_maps": "cam_maps",
    "bootstrap_interval": "bootstrap",
    "compare": "checkpoints",
    "comparison": "tables",
    "difference_table": "difference",
    "energy_share": "cam_maps",
    "equal_specificity": "operating_point",
    "evaluate": "scores",
    "peak_in_region": "cam_maps",
    "pick_device": "given",
    "predict": "predictions",
    "region_drops": "drops",
    "reliance": "drops",
    "reliance_table": "reliance_result",
    "score_drops": "drops",
    "set_iou": "cam_maps",
    "size_corrected_energy": "cam_maps",
    "summarize": "scores",
    "verdict": "verdicts",
}

__all__ = sorted(_HOMES)
# Modules that need torchmetrics.
_MEASURING = ("checkpoints", "difference", "metrics", "scores", "verdicts")
__getattr__, __dir__ = attach(__name__, _HOMES, needs={m: ["torchmetrics"] for m in _MEASURING})
