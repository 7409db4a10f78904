"""Images as a checkpoint takes them: a split of a data folder, or a data set at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from fastcam._util import checks as check
from fastcam._util.progress import Report, labelled
from fastcam.data import CelebA, PreparedFaces
from fastcam.models import Checkpoint


def prepare_split(
    checkpoint: Checkpoint,
    data: str | Path,
    split: str = "test",
    *,
    landmarks: str | Path | None = None,
    limit: int | None = None,
    augment: Callable[..., tuple[Tensor, Tensor]] | None = None,
    cache: bool | None = None,
    workers: int = 2,
    progress: Report | None = None,
) -> PreparedFaces:
    """A split with the checkpoint's attributes, at its input size and fit.

    Args:
        checkpoint: gives attributes and preprocessing.
        data: folder in the CelebA layout.
        split: ``"train"``, ``"valid"``, ``"test"`` or ``"all"``.
        landmarks: landmark table in place of the data folder's own.
        limit: only the first so many images.
        augment, cache: see :class:`fastcam.data.PreparedFaces`.
        workers: decoding threads.
        progress: called with (what, done, total) while images are decoded.

    Raises:
        ValueError: an attribute that the data lack, an unknown or empty split, or a limit below 1.
        FileNotFoundError: data are missing.
    """
    if limit is not None:
        check.at_least("limit", limit, 1)
    faces = CelebA(data, split, landmarks=landmarks, attributes=checkpoint.attributes)
    count = len(faces) if limit is None else min(limit, len(faces))
    if count == 0:
        raise ValueError(f"{data} has no image in the {split} split")
    return PreparedFaces(
        faces,
        checkpoint.preprocessing.size,
        fit=checkpoint.preprocessing.fit,
        augment=augment,
        indices=range(count),
        cache=cache,
        workers=workers,
        progress=labelled(progress, f"reading {split} images"),
    )


def prepared_for(checkpoint: Checkpoint, faces: CelebA | PreparedFaces) -> PreparedFaces:
    """``faces`` at the checkpoint's input size and fit.

    Raises:
        ValueError: attributes that are not the classifier's, or faces prepared otherwise.
    """
    if list(faces.attributes) != list(checkpoint.attributes):
        raise ValueError(
            f"the checkpoint knows {len(checkpoint.attributes)} attributes"
            f" ({', '.join(checkpoint.attributes[:3])}, …), the data has {len(faces.attributes)}"
            f" ({', '.join(faces.attributes[:3])}, …): they must be the same, in the same order"
        )
    wanted = checkpoint.preprocessing
    if isinstance(faces, CelebA):
        return PreparedFaces(faces, wanted.size, fit=wanted.fit)
    if (faces.size, faces.fit) != (wanted.size, wanted.fit):
        raise ValueError(
            f"faces were prepared at {faces.size} pixels with fit {faces.fit!r}, the model takes"
            f" {wanted.size} and {wanted.fit!r}"
        )
    return faces
