"""Trained classifiers on disk: weights, and all that is needed to use them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcam._util.architecture import Architecture
from fastcam._util.files import write_atomic
from fastcam._util.modules import UninitializedWeights
from fastcam._util.run_files import BEST, CHECKPOINT, RESULT, RESUME
from fastcam._util.torch_files import NotATorchFile, read_torch_file
from fastcam.data.choices import OWN_CLASS
from fastcam.functional import margins
from fastcam.models.registry import build, model_spec, options_for, spec_of
from fastcam.models.spec import IMAGENET_MEAN, IMAGENET_STD, ModelSpec
from fastcam.models.weights import load_all, read_state, state_misfit, weights_in

FORMAT = "fastcam-checkpoint"
VERSION = 3  # 2 added model_options, 3 exclusive
_KEYS = ("model_name", "attributes", "preprocessing", "history", "state_dict")


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

    def ready(self, images: Tensor) -> Tensor:
        """What a data loader gives as the model's input: floating images are normalised already."""
        return images if images.is_floating_point() else self.normalize(images)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] to normalised float32."""
        # What another mode than eager traces must make its own constants.
        make = _scale_and_shift if type(images) is Tensor else _scale_and_shift.__wrapped__
        scale, shift = make(tuple(self.mean), tuple(self.std), images.device)
        floats = images.to(torch.float32, copy=True)  # never the caller's own tensor
        return floats.mul_(scale).add_(shift)


@lru_cache(maxsize=16)  # so that a training step copies nothing to its device for them
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """What turns uint8 into normalised images: [1, 3, 1, 1] each."""
    with torch.inference_mode(False):
        scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32, device=device)
        shift = torch.tensor(
            [-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32, device=device
        )
    return scale.view(1, 3, 1, 1), shift.view(1, 3, 1, 1)


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
        target_layer: whose Grad-CAM is taken, in place of the layer that the registry knows.
        exclusive: whether the attributes are classes, of which an image has one (a softmax over the
            logits); else each is judged by itself (a sigmoid of its logit).
    """

    model: nn.Module
    model_name: str
    attributes: list[str]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    history: list[dict[str, Any]] = field(default_factory=list)
    model_options: dict[str, Any] = field(default_factory=dict)
    target_layer: str | None = None
    exclusive: bool = False

    @property
    def judged(self) -> list[str]:
        """What can be judged: the attributes; of classes also ``own_class``, that of each image."""
        return [*self.attributes, *([OWN_CLASS] if self.exclusive else [])]

    def scores(self, logits: Tensor) -> Tensor:
        """What each attribute's Grad-CAM is taken of: σ(score) is its probability.

        The logits [N, K] themselves; of classes their :func:`fastcam.functional.margins`.
        """
        return margins(logits) if self.exclusive else logits

    @property
    def spec(self) -> ModelSpec:
        """The model's registry entry, with its Grad-CAM layer.

        Raises:
            ValueError: the model has no module ``target_layer``.
        """
        return spec_of(self.model, self.model_name, self.target_layer)


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of fastcam, by its format's name; nothing is loaded."""
    return pickle_says(path, FORMAT)


def pickle_says(path: Path, word: str) -> bool:
    """Whether the values in a file of torch.save hold this word; nothing is loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            return word.encode() in archive.read(name)
    except (zipfile.BadZipFile, StopIteration, ValueError, EOFError):
        return False


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint atomically.

    Only tensors and plain values are stored, so ``torch.load(path, weights_only=True)`` reads it.

    Raises:
        FileExistsError: a file lies there that is no checkpoint of fastcam.
        OSError: it cannot be written; what was there before is kept.
        TypeError: a value is not plain (NumPy's numbers are made so), and could not be read again.
    """
    from fastcam import __version__

    preprocessing = checkpoint.preprocessing
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "model_name": checkpoint.model_name,
        "model_options": dict(checkpoint.model_options),
        "attributes": list(checkpoint.attributes),
        "target_layer": checkpoint.target_layer,
        "exclusive": checkpoint.exclusive,
        "preprocessing": {
            "size": preprocessing.size,
            "fit": preprocessing.fit,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
        "history": checkpoint.history,
        "versions": {"fastcam": __version__, "torch": str(torch.__version__)},
    }
    payload = {name: _plain(name, value) for name, value in payload.items()}
    payload["state_dict"] = _inner(checkpoint.model).state_dict()
    return write_atomic(path, lambda file: torch.save(payload, file), ours=is_checkpoint)


def _plain(name: str, value: Any) -> Any:
    """A value as ``torch.load(weights_only=True)`` reads it."""
    if isinstance(value, np.generic):  # np.float64 is a float, but is not stored as one
        value = value.item()
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {_plain(name, k): _plain(f"{name}[{k!r}]", v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        found = [_plain(f"{name}[{i}]", each) for i, each in enumerate(value)]
        return found if isinstance(value, list) else tuple(found)
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:  # of pickle's kinds, and any of the value's own
        raise TypeError(
            f"{name}: expected plain values (numbers, text, lists, dicts) or tensors, as nothing "
            f"else can be read from a checkpoint again, got {type(value).__name__}"
        ) from None
    return value


def _inner(model: nn.Module) -> nn.Module:
    """Without torch.compile's wrapper, or that of processes or devices, whose names the loaded
    model would not have."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


# What is said of a file that holds a plain state dict.
WEIGHTS_ALONE = (
    ", or say whose weights these are: --arch NAME --arch-attributes A,B,C (the network, and what "
    "its scores judge; --arch-classes A,B,C of classes of which an image has one)"
)


def _why_missing(path: Path) -> str:
    """What the training in a checkpoint's folder left behind about itself."""
    try:
        stored = json.loads((path.parent / RESULT).read_text(encoding="utf-8"))
        return f": {stored['diverged']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def load_checkpoint(path: str | Path, architecture: Architecture | None = None) -> Checkpoint:
    """Read a checkpoint, or a file of weights alone; the model is in eval mode, on the CPU.

    Args:
        path: a file as :func:`save_checkpoint` writes it; with an architecture also one that holds
            a plain state dict.
        architecture: what such a file does not say; and the layer whose Grad-CAM is taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no fastcam checkpoint, is damaged, or was written by a newer
            version; the message says what it is, as far as that can be told. Or its weights are not
            of that architecture.
        ImportError: a safetensors file or a model of timm's, without them.
    """
    checkpoint = _loaded(path, architecture)
    if architecture is not None and architecture.target_layer is not None:
        checkpoint.target_layer = architecture.target_layer
        _ = checkpoint.spec  # says what is wrong with the name
    return checkpoint


def _loaded(path: str | Path, architecture: Architecture | None) -> Checkpoint:
    path = Path(path)
    if path.is_dir():
        inside = path / CHECKPOINT
        hint = f"did you mean {inside}?" if inside.is_file() else "name a file such as RUN/model.pt"
        raise ValueError(f"checkpoint {path} is a folder; {hint}")
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path} does not exist{_why_missing(path)}")
    if architecture is not None and architecture.arch is not None and not is_checkpoint(path):
        return _of_weights(path, architecture.arch, architecture)
    expected = "expected a checkpoint as `fastcam train` writes it (RUN/model.pt)"
    try:
        payload = read_torch_file(path)
    except NotATorchFile as error:
        alone = WEIGHTS_ALONE if "safetensors" in str(error) else ""
        raise ValueError(
            f"{path} is no readable checkpoint: it {error}; {expected}{alone}"
        ) from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no fastcam checkpoint: it {_foreign(payload, path)}; {expected}"
            + (WEIGHTS_ALONE if weights_in(payload) is not None else "")
        )
    version = payload.get("version")
    if isinstance(version, int) and version > VERSION:
        written = (payload.get("versions") or {}).get("fastcam", "a newer version")
        raise ValueError(
            f"{path} has format version {version} (written by fastcam {written}), this fastcam"
            f" reads up to {VERSION}: update fastcam"
        )
    lost = [name for name in _KEYS if name not in payload]
    if lost:
        raise ValueError(f"{path} is a damaged checkpoint: it lacks {', '.join(lost)}")
    try:
        return _restored(payload)
    except _Misfit as error:
        raise ValueError(f"{path} {error}") from None
    except ValueError as error:  # an unknown network or option
        raise ValueError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is a damaged checkpoint: {error}") from None


def _of_weights(path: Path, name: str, architecture: Architecture) -> Checkpoint:
    """A network by name, with the weights in a file that holds nothing else."""
    names, size = architecture.names, architecture.arch_size
    spec, options = model_spec(name), options_for(name, None, size)
    state: Any = read_state(path)
    if spec.renewed is not None:
        state = spec.renewed(state)
    with UninitializedWeights():
        model = build(name, len(names), options)
    misfit = load_all(model, state)
    if misfit is not None:
        raise ValueError(f"{path} does not fit {name!r} with {len(names)} scores: {misfit}")
    preprocessing = Preprocessing(size, mean=spec.mean, std=spec.std)
    exclusive = architecture.arch_classes is not None
    return Checkpoint(
        model.eval(), name, names, preprocessing, model_options=options, exclusive=exclusive
    )


class _Misfit(Exception):
    """The weights are not those of the network that the checkpoint names."""


def _restored(payload: dict[str, Any]) -> Checkpoint:
    stored = payload["preprocessing"]
    options = payload.get("model_options", {})
    with UninitializedWeights():
        model = build(payload["model_name"], len(payload["attributes"]), options)
    misfit = state_misfit(model, payload["state_dict"])
    if misfit is not None:
        raise _Misfit(f"does not fit its model {payload['model_name']!r}: {misfit}")
    model.load_state_dict(payload["state_dict"])
    return Checkpoint(
        model=model.eval(),
        model_name=payload["model_name"],
        attributes=payload["attributes"],
        preprocessing=Preprocessing(
            stored["size"], stored["fit"], tuple(stored["mean"]), tuple(stored["std"])
        ),
        history=payload["history"],
        model_options=options,
        target_layer=payload.get("target_layer"),
        exclusive=payload.get("exclusive", False),
    )


def _foreign(payload: Any, path: Path) -> str:
    """What a file of torch.save holds that is no checkpoint of ours, after its name."""
    if isinstance(payload, dict) and "pytorch-lightning_version" in payload:
        if path.name in (RESUME, BEST):
            return (
                "is the state of an unfinished run, not its model: give the run's command again to"
                " finish it"
            )
        return "is a checkpoint of PyTorch Lightning"
    if (
        isinstance(payload, dict)
        and payload
        and all(isinstance(v, Tensor) for v in payload.values())
    ):
        return "holds the weights of another program's network"
    if isinstance(payload, dict) and "state_dict" in payload:
        return "is a checkpoint of another program"
    if isinstance(payload, Tensor):
        return "holds a single tensor"
    return f"holds a {type(payload).__name__}"
