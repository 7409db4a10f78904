"""Training and fine-tuning: one path, from plain settings to a checkpoint."""

from __future__ import annotations

from fastcam._util.extras import require

for _module in ("torchvision", "lightning", "torchmetrics"):
    require(_module, extra="train")

from fastcam.training.closing_line import summary  # noqa: E402
from fastcam.training.config import GuidanceConfig, TrainConfig  # noqa: E402
from fastcam.training.diverged import TrainingDiverged  # noqa: E402
from fastcam.training.memory import keep_freed_memory  # noqa: E402
from fastcam.training.run import TrainResult, train  # noqa: E402

__all__ = [
    "GuidanceConfig",
    "TrainConfig",
    "TrainResult",
    "TrainingDiverged",
    "keep_freed_memory",
    "summary",
    "train",
]
