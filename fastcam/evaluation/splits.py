"""Images as a checkpoint takes them: a split of a data folder, or a data set at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastcam._util import checks as check
from fastcam._util.progress import Report, labelled
from fastcam.data import CelebA, DataFolder, PreparedFaces, PreparedImages, open_folder
from fastcam.data.batches import Batch, labels_of
from fastcam.data.labelled import Images, attribute_pair
from fastcam.data.prepared import Prepared
from fastcam.data.tables import SPLITS
from fastcam.models import Checkpoint


def prepare_split(
    checkpoint: Checkpoint,
    data: str | Path | DataFolder,
    split: str = "test",
    *,
    regions: Sequence[str] = (),
    limit: int | None = None,
    cache: bool | None = None,
    workers: int = 2,
    progress: Report | None = None,
) -> Prepared:
    """A split with the checkpoint's attributes, at its input size and fit.

    Args:
        checkpoint: gives attributes and preprocessing.
        data: a folder that :func:`fastcam.data.open_folder` can read, or has opened.
        split: ``"train"``, ``"valid"``, ``"test"`` or ``"all"``.
        regions: that are going to be drawn, as texts: only their masks are read. Of faces all can
            be drawn; where none is named, nothing is said of missing landmarks.
        limit: only so many images: of faces the first, of others evenly spaced ones, as folders and
            tables often hold one class after the other.
        cache: see :class:`fastcam.data.PreparedFaces`.
        workers: decoding threads.
        progress: called with (what, done, total) while images are decoded.

    Raises:
        ValueError: an attribute that the data lack, an unknown or empty split, or a limit below 1.
        FileNotFoundError: data are missing.
    """
    if limit is not None:
        check.at_least("limit", limit, 1)
    folder = open_folder(data)
    check_kind(checkpoint, folder.exclusive, str(folder.root))
    found = folder.images(split, checkpoint.attributes, regions)
    total = len(found)
    count = total if limit is None else min(limit, total)
    if count == 0:
        counts = {s: len(folder.images(s)) for s in SPLITS}
        having = ", ".join(f"{s} ({n})" for s, n in counts.items() if n)
        raise ValueError(f"{folder.root} has no image in the {split} split; it has {having}")
    faces = isinstance(found, CelebA)
    return prepared(
        checkpoint,
        found,
        indices=range(count) if faces else [i * total // count for i in range(count)],
        cache=cache,
        workers=workers,
        progress=labelled(progress, f"reading {split} images"),
    )


def prepared(checkpoint: Checkpoint, images: Images, **options: Any) -> Prepared:
    """Images at the checkpoint's input size and fit; options of :class:`PreparedFaces`."""
    kind: Any = PreparedFaces if isinstance(images, CelebA) else PreparedImages
    wanted = checkpoint.preprocessing
    return kind(images, wanted.size, fit=wanted.fit, **options)


def check_kind(checkpoint: Checkpoint, exclusive: bool, data: str) -> None:
    """Make sure that a checkpoint judges as the data are labelled.

    Raises:
        ValueError: it tells classes apart, of which an image has one, and the labels are attributes
            that an image has in any combination; or the reverse.
    """
    if checkpoint.exclusive != exclusive:
        kinds = {
            True: "classes, of which an image has one",
            False: "attributes, which it has in any combination",
        }
        raise ValueError(
            f"the checkpoint judges {kinds[checkpoint.exclusive]}; {data} has {kinds[exclusive]}"
            " (of weights alone --arch-attributes or --arch-classes says which)"
        )


def prepared_for(checkpoint: Checkpoint, faces: CelebA | Prepared) -> Prepared:
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
    if isinstance(faces, CelebA):
        return prepared(checkpoint, faces)
    wanted = checkpoint.preprocessing
    if (faces.size, faces.fit) != (wanted.size, wanted.fit):
        raise ValueError(
            f"faces were prepared at {faces.size} pixels with fit {faces.fit!r}, the model takes"
            f" {wanted.size} and {wanted.fit!r}"
        )
    return faces


def inputs_of(
    checkpoint: Checkpoint, batch: Batch, device: str | torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """What a checkpoint takes of a batch: normalised images, on ``device`` if one is named, and
    labels [N, K], where they were."""
    images = batch["image"] if device is None else batch["image"].to(device)
    labels = labels_of(batch, len(checkpoint.attributes), checkpoint.exclusive)
    return checkpoint.preprocessing.ready(images), labels


def check_other(
    checkpoint: Checkpoint, folder: DataFolder, attribute: str, other: str | None, of: str
) -> None:
    """Make sure that b is judged, or another label of the data, see :meth:`FaceFolder.labels_of`;
    and not a.

    Args:
        of: what judges, for the error.

    Raises:
        ValueError: it is neither, or a.
    """
    if other is not None and other in (*checkpoint.judged, attribute):
        attribute_pair(checkpoint.judged, attribute, other, of)
    elif other is not None:
        folder.labels_of([], other)


def labels_with(
    labels: Tensor, attributes: list[str], other: str | None, folder: DataFolder, images: Prepared
) -> tuple[Tensor, list[str]]:
    """Labels [N, K] and their names with those of b last, where it is not among them.

    Args:
        labels, attributes: of a classifier's logits.
        other: b, see :func:`check_other`.
        images: of the data; those of the labels.
    """
    if other is None or other in attributes:
        return labels, attributes
    return torch.cat([labels, folder.labels_of(images.names, other)], 1), [*attributes, other]
