"""Analyses of an attention network (Kimura & Tanaka); each result has a figure and tables.

::

    checkpoint = load_attention("runs/attention/model.pt")
    faces = open_faces(checkpoint, "faces", "test")
    save(attributes(checkpoint, faces), "runs/attention/attributes")  # .png, .md, .json
"""

from __future__ import annotations

from fastcam._util.extras import require

for _module in ("torchvision", "torchmetrics", "matplotlib"):
    require(_module, extra="train")

from fastcam.analysis.ablation_study import VARIANTS, Ablation, ablation  # noqa: E402
from fastcam.analysis.attribute_scores import AttributeScores, attributes  # noqa: E402
from fastcam.analysis.correlation import Correlations, correlations  # noqa: E402
from fastcam.analysis.curves import ToneCurves, tone_curves  # noqa: E402
from fastcam.analysis.masks import TopMasks, mask_changes, top_masks  # noqa: E402
from fastcam.analysis.noise import NoiseAccuracy, add_noise, noise_accuracy  # noqa: E402
from fastcam.analysis.noise_robustness import Robustness, Search, robustness, search  # noqa: E402
from fastcam.analysis.saved import Saved, load, save  # noqa: E402
from fastcam.analysis.subject import load_attention, open_faces  # noqa: E402

__all__ = [
    "VARIANTS",
    "Ablation",
    "AttributeScores",
    "Correlations",
    "NoiseAccuracy",
    "Robustness",
    "Saved",
    "Search",
    "ToneCurves",
    "TopMasks",
    "ablation",
    "add_noise",
    "attributes",
    "correlations",
    "load",
    "load_attention",
    "mask_changes",
    "noise_accuracy",
    "open_faces",
    "robustness",
    "save",
    "search",
    "tone_curves",
    "top_masks",
]
