"""Both papers' experiments by one command, on drawn and on real faces.

Names are imported on first use: the settings need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcam._util.lazy import attach

if TYPE_CHECKING:
    from fastcam.experiments.runner import run as run
    from fastcam.experiments.settings import CATALOGUE as CATALOGUE
    from fastcam.experiments.settings import ExperimentConfig as ExperimentConfig
    from fastcam.experiments.settings import Pair as Pair

_HOMES = {
    "CATALOGUE": "settings",
    "ExperimentConfig": "settings",
    "Pair": "settings",
    "run": "runner",
}

__all__ = sorted(_HOMES)
__getattr__, __dir__ = attach(
    __name__, _HOMES, needs={"runner": ["torchvision", "lightning", "torchmetrics", "matplotlib"]}
)
