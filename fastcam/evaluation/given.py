"""What an evaluation is given: a device and checkpoints by name; batches, scores and regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastcam.data.batches import labels_of, on_grid
from fastcam.models import Checkpoint

# Names of files that say nothing of what is in them.
_OF_RUNS = ("model", "last", "best", "model_best", "checkpoint", "weights", "pytorch_model")


def pick_device(name: str) -> torch.device:
    """``"auto"`` is the GPU where there is one, else the CPU; any other name is torch's own."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda is not available: this torch sees no GPU")
    return device


def name_checkpoints(paths: Sequence[str | Path]) -> dict[str, str | Path]:
    """Paths by the name of their run's folder, files with names of their own by these; all by their
    folders where such names repeat, by all of the path where these do."""
    whole = [Path(path).resolve() for path in paths]
    folders = [path.parent.name for path in whole]
    own = [Path(path.name.removesuffix(".tar")).stem for path in whole]
    said = [folder if name in _OF_RUNS else name for folder, name in zip(folders, own, strict=True)]
    for names in (said, folders):
        if len(set(names)) == len(names):
            return dict(zip(names, paths, strict=True))
    return {str(path): path for path in paths}


def check_labels(labels: Tensor) -> None:
    """Refuse labels that say neither present nor absent: NaN would count as absent.

    Raises:
        ValueError: labels beyond [0, 1], or NaN; shares between are soft labels.
    """
    bad = labels[~((labels >= 0) & (labels <= 1))]
    if len(bad):
        raise ValueError(
            f"labels: expected 0 or 1, got {float(bad[0]):g} ({len(bad)} of {labels.numel()} are"
            " neither)"
        )


def check_batch(batch: Any, of: Checkpoint, guided: bool, *, first: bool) -> None:
    """Refuse what is no :class:`fastcam.data.batches.Batch` for a network.

    Args:
        batch: of a data loader.
        of: whose labels they are.
        guided: whether it has to have regions.
        first: look at the values of labels that are on a GPU, too, which waits for it.

    Raises:
        TypeError: it is no dict, or lacks a tensor.
        ValueError: labels of another shape, beyond [0, 1] or NaN; of classes, not one an image.
    """
    keys = ["image", "labels", *(["regions"] if guided else [])]
    forms = f"a dict with {', '.join(map(repr, keys))}"
    if not isinstance(batch, Mapping):
        size = f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
        hint = ""
        if isinstance(batch, list) and any(isinstance(part, Mapping) for part in batch):
            hint = "; Lightning takes a list of batches for several loaders: make a DataLoader of"
            hint += " it with batch_size=None"
        raise TypeError(f"batch: expected {forms}, got {type(batch).__name__}{size}{hint}")
    for key in keys:
        if not isinstance(value := batch.get(key), Tensor):
            got = type(value).__name__ if key in batch else f"keys {', '.join(map(str, batch))}"
            raise TypeError(f"batch: expected {forms}, all tensors; of {key!r} got {got}")
    given: Any = batch
    labels, count = given["labels"], len(of.attributes)
    if labels.device.type != "cpu" and not first:
        return
    if of.exclusive and labels.dim() == 1 and not labels.is_floating_point():
        wrong = labels[(labels < 0) | (labels >= count)]
        if len(wrong):
            raise ValueError(f"labels: expected classes in [0, {count - 1}], got {int(wrong[0])}")
        return
    columns = labels_of(given, count, of.exclusive)
    check_labels(columns)
    if of.exclusive:
        sums = columns.sum(1)
        wrong = sums[(sums - 1).abs() > 1e-3]
        if len(wrong):
            raise ValueError(
                f"labels: expected one class for each image, got a row with a sum of {wrong[0]:g}"
            )


def check_named(region: object) -> None:
    """TypeError for a position in place of a region, which only batches have."""
    if isinstance(region, int):
        raise TypeError(f"region: expected text or a region, of batches a position, got {region!r}")


def regions_at(regions: Tensor, columns: Sequence[int], cells: Sequence[int]) -> Tensor:
    """Those of a batch's regions that are meant, on a grid: [N, len(columns), h, w].

    Args:
        regions: see :class:`fastcam.data.batches.Batch`.
        columns: positions of regions.
        cells: (h, w).

    Raises:
        ValueError: a position that there is not.
        TypeError, ValueError: as :func:`fastcam.data.batches.on_grid`.
    """
    found = on_grid(regions, tuple(cells))
    for column in columns:
        if not 0 <= column < found.shape[1]:
            raise ValueError(
                f"region: expected a position in [0, {found.shape[1] - 1}] of the batches'"
                f" {found.shape[1]} regions, got {column}"
            )
    return found[:, list(columns)]


def judged_right(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where a logit is on the right side (above 0: present), else 0: float32.

    Args:
        logits, labels: of shapes that broadcast; a label above 0.5 means present.
    """
    return ((logits > 0) == (labels > 0.5)).float()
