"""Classifiers to guide, and their checkpoints."""

from __future__ import annotations

from fastcam._util.extras import require

require("torchvision", extra="train")

from fastcam.models.alexnet import alexnet  # noqa: E402
from fastcam.models.attention import AttentionNetwork  # noqa: E402
from fastcam.models.checkpoint import (  # noqa: E402
    Checkpoint,
    Preprocessing,
    load_checkpoint,
    save_checkpoint,
)
from fastcam.models.layers import Layer, layer_table  # noqa: E402
from fastcam.models.registry import (  # noqa: E402
    build,
    grid_size,
    model_names,
    model_spec,
    register,
    spec_of,
)
from fastcam.models.spec import ModelSpec, spec_at  # noqa: E402

__all__ = [
    "AttentionNetwork",
    "Checkpoint",
    "Layer",
    "ModelSpec",
    "Preprocessing",
    "alexnet",
    "build",
    "grid_size",
    "layer_table",
    "load_checkpoint",
    "model_names",
    "model_spec",
    "register",
    "save_checkpoint",
    "spec_at",
    "spec_of",
]
