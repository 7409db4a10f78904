"""Training and fine-tuning: one path, from plain settings to a checkpoint.

Names are imported on first use: the settings need no Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcam._util.lazy import attach

if TYPE_CHECKING:
    from fastcam.training.config import GuidanceConfig as GuidanceConfig
    from fastcam.training.config import TrainConfig as TrainConfig
    from fastcam.training.data import Batches as Batches
    from fastcam.training.group_dro import GroupDRO as GroupDRO
    from fastcam.training.memory import keep_freed_memory as keep_freed_memory
    from fastcam.training.nonfinite import TrainingDiverged as TrainingDiverged
    from fastcam.training.outcome import summary as summary
    from fastcam.training.run import train as train
    from fastcam.training.run_folder import TrainResult as TrainResult
    from fastcam.training.task import AttributeTask as AttributeTask

_HOMES = {
    "AttributeTask": "task",
    "Batches": "data",
    "GroupDRO": "group_dro",
    "GuidanceConfig": "config",
    "TrainConfig": "config",
    "TrainResult": "run_folder",
    "TrainingDiverged": "nonfinite",
    "keep_freed_memory": "memory",
    "summary": "outcome",
    "train": "run",
}

__all__ = sorted(_HOMES)
__getattr__, __dir__ = attach(
    __name__,
    _HOMES,
    needs={
        m: ["torchvision", "lightning", "torchmetrics"]
        for m in ("data", "run", "run_folder", "task")
    },
)
