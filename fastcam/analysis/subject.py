"""Inputs of the analyses: an attention network from its checkpoint, and images in batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastcam._util.progress import Report
from fastcam.data.batches import Batch, loader
from fastcam.evaluation.splits import Prepared, prepare_split
from fastcam.models import AttentionNetwork, Checkpoint, load_checkpoint


def load_attention(path: str | Path) -> Checkpoint:
    """Read the checkpoint of an attention network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or that of another model.
    """
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint.model, AttentionNetwork):
        raise ValueError(
            f"{path} holds the model {checkpoint.model_name!r}, which is no attention network; "
            "`fastcam train --model attention` trains one"
        )
    return checkpoint


def attention_network(checkpoint: Checkpoint) -> AttentionNetwork:
    """The checkpoint's network; ValueError if it is no attention network."""
    if not isinstance(checkpoint.model, AttentionNetwork):
        raise ValueError(
            f"checkpoint: expected an attention network, got {type(checkpoint.model).__name__}"
        )
    return checkpoint.model


def open_faces(
    checkpoint: Checkpoint,
    data: str | Path,
    split: str = "test",
    *,
    limit: int | None = None,
    cache: bool | None = None,
    workers: int = 2,
    progress: Report | None = None,
) -> Prepared:
    """:func:`fastcam.evaluation.splits.prepare_split`, which documents arguments and errors.

    No analysis takes regions, so nothing is said of where they would come from.
    """
    return prepare_split(
        checkpoint, data, split, limit=limit, cache=cache, workers=workers, progress=progress
    )


def check_faces(checkpoint: Checkpoint, faces: Prepared) -> None:
    """TypeError for anything but prepared images, ValueError for attributes or a size not its."""
    if not isinstance(faces, Prepared):
        raise TypeError(
            "faces: expected images as fastcam.analysis.open_faces prepares them, got "
            f"{type(faces).__name__}"
        )
    if list(faces.attributes) != list(checkpoint.attributes):
        raise ValueError("faces: expected the checkpoint's attributes, in its order")
    wanted = checkpoint.preprocessing
    if (faces.size, faces.fit) != (wanted.size, wanted.fit):
        raise ValueError(
            f"faces: expected {wanted.size} pixels with fit {wanted.fit!r}, got {faces.size} "
            f"with {faces.fit!r}"
        )


def batches(checkpoint: Checkpoint, faces: Prepared, batch_size: int) -> Iterator[Batch]:
    """The images in order, if :func:`check_faces` lets them pass."""
    check_faces(checkpoint, faces)
    yield from loader(faces, batch_size)
