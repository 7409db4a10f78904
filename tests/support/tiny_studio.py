"""A tiny data set and network of the studio's, which processes without the tests read, too."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_faces import ATTRIBUTES, write_faces

from fastcam.models import Checkpoint, build, save_checkpoint
from fastcam.models.checkpoint import Preprocessing
from fastcam.training import TrainConfig, train

WIDTH = {"width": 8}


def write_subject(root: Path, *, trained: bool = True) -> tuple[Path, Path]:
    """Data folder and checkpoint; trained for some steps, so that its maps are not empty."""
    data = write_faces(root / "faces", 64)
    if trained:
        config = TrainConfig(
            str(data), model="small", model_options=WIDTH, size=48, epochs=6, patience=0, lr=0.1,
            batch_size=8, device="cpu", workers=1, cache=False,
        )  # fmt: skip
        return data, train(config, root / "start").checkpoint
    torch.manual_seed(0)
    model = build("small", len(ATTRIBUTES), WIDTH)
    checkpoint = Checkpoint(model, "small", list(ATTRIBUTES), Preprocessing(48))
    checkpoint.model_options.update(WIDTH)
    return data, save_checkpoint(root / "start" / "model.pt", checkpoint)


def encoded(width: int, height: int, kind: str = "PNG") -> bytes:
    """Noise as an image file."""
    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()
