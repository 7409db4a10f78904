"""Trained classifiers on disk: weights, and all that is needed to use them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastcam._files import write_atomic
from fastcam.models.registry import ModelSpec, build, model_spec

FORMAT = "fastcam-checkpoint"
VERSION = 2  # 2 added model_options
_KEYS = ("version", "model_name", "attributes", "preprocessing", "history", "state_dict")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """From stored images to the model's input.

    Attributes:
        size: side length in pixels of the square input.
        fit: how an image is brought to a square, see :class:`fastcam.data.FitSquare`.
        mean, std: per RGB channel, of images in [0, 1].
    """

    size: int = 128
    fit: str = "crop"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] to normalised float32."""
        shape = (1, 3, 1, 1)
        scale = images.new_tensor([1 / (255 * s) for s in self.std], dtype=torch.float32)
        shift = images.new_tensor(
            [-m / s for m, s in zip(self.mean, self.std, strict=True)], dtype=torch.float32
        )
        floats = images.to(torch.float32, copy=True)  # never the caller's own tensor
        return floats.mul_(scale.view(shape)).add_(shift.view(shape))


@dataclass
class Checkpoint:
    """A classifier and what is needed to use it.

    Attributes:
        model: the network, from normalised images [N, 3, H, W] to logits [N, K].
        model_name: its name in :mod:`fastcam.models.registry`.
        attributes: K attribute names, in the order of the logits.
        preprocessing: input size and normalisation.
        history: one record per training run that led here, oldest first: settings and metrics.
        model_options: JSON values by name, see :attr:`fastcam.models.ModelSpec.options`; empty for
            a model as it comes.
    """

    model: nn.Module
    model_name: str
    attributes: list[str]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    history: list[dict[str, Any]] = field(default_factory=list)
    model_options: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> ModelSpec:
        """The model's registry entry."""
        return model_spec(self.model_name)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint atomically.

    Only tensors and plain values are stored, so ``torch.load(path, weights_only=True)`` reads it.
    """
    from fastcam import __version__

    preprocessing = checkpoint.preprocessing
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "model_name": checkpoint.model_name,
        "model_options": dict(checkpoint.model_options),
        "attributes": list(checkpoint.attributes),
        "preprocessing": {
            "size": preprocessing.size,
            "fit": preprocessing.fit,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
        "history": checkpoint.history,
        "versions": {"fastcam": __version__, "torch": str(torch.__version__)},
        "state_dict": checkpoint.model.state_dict(),
    }
    return write_atomic(path, lambda p: torch.save(payload, p))


def _why_missing(path: Path) -> str:
    """What the training in a checkpoint's folder left behind about itself."""
    try:
        stored = json.loads((path.parent / "result.json").read_text(encoding="utf-8"))
        return f": {stored['diverged']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint; the model is in eval mode, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no fastcam checkpoint, is damaged, or was written by a newer
            version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist{_why_missing(path)}")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is no readable checkpoint: {reason}") from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ValueError(f"{path} is no fastcam checkpoint (as `fastcam train` writes it)")
    lost = [name for name in _KEYS if name not in payload]
    if lost:
        raise ValueError(f"{path} is a damaged checkpoint: it lacks {', '.join(lost)}")
    if payload["version"] > VERSION:
        raise ValueError(
            f"{path} has format version {payload['version']}, this fastcam reads up to {VERSION}"
        )
    stored = payload["preprocessing"]
    options = payload.get("model_options", {})
    model = build(payload["model_name"], len(payload["attributes"]), options)
    try:
        model.load_state_dict(payload["state_dict"])
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit its model: {str(error).splitlines()[-1].strip()}"
        ) from None
    return Checkpoint(
        model=model.eval(),
        model_name=payload["model_name"],
        attributes=payload["attributes"],
        preprocessing=Preprocessing(
            stored["size"], stored["fit"], tuple(stored["mean"]), tuple(stored["std"])
        ),
        history=payload["history"],
        model_options=options,
    )
