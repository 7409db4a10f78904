"""What a data folder says, as SHA-256: its labels, its splits, and where its regions lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fastcam.data.folder import MaskedFolder, is_celeba
from fastcam.data.landmarks import LANDMARK_TABLE
from fastcam.data.layout import CONFIG
from fastcam.data.tables import ATTRIBUTE_TABLE, FIVE_POINT_TABLE, PARTITION_TABLE

#: Names of the digests among settings, and what each is of.
DIGESTS = {
    "labels_sha256": "labels",
    "partition_sha256": "splits",
    "landmarks_sha256": "landmarks",
}
_LABELS, _PARTITION, _LANDMARKS = DIGESTS
#: In place of a digest: there are no landmarks, and all faces have the template's regions.
TEMPLATE = "template"


def data_digests(
    root: str | Path,
    *,
    landmarks: str | Path | None = None,
    masks: str | Path | None = None,
    regions: bool = True,
) -> dict[str, str]:
    """What lies behind a data folder's name, by the names of ``DIGESTS``.

    The labels of other images than faces tell their splits, too; their masks are not read.

    Args:
        root: the folder.
        landmarks: of faces: landmark table in place of the folder's own.
        masks: of others: where they lie, see :class:`MaskedFolder`; they are no images.
        regions: whether it matters where regions lie; without it landmarks are left out.

    Returns:
        The digests; without those of files that are not there. In place of the landmarks' stands
        ``TEMPLATE`` where the folder has neither a landmark table nor a five-point table.

    Raises:
        ValueError: the folder's layout cannot be found out.
    """
    root = Path(root)
    found = {_LABELS: label_digest(root, masks)}
    if _faces(root):
        found[_PARTITION] = file_digest(root / PARTITION_TABLE)
        if regions:
            found[_LANDMARKS] = _landmark_digest(root, landmarks)
    return {name: digest for name, digest in found.items() if digest is not None}


def file_digest(path: str | Path) -> str | None:
    """SHA-256 of a file; None where there is none."""
    if not Path(path).is_file():
        return None
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def label_digest(root: str | Path, masks: str | Path | None = None) -> str | None:
    """SHA-256 of a data folder's labels: of faces their table; of other images which there are in
    which split, and what each is labelled. None where there is no folder or table."""
    root = Path(root)
    if _faces(root):
        return file_digest(root / ATTRIBUTE_TABLE)
    if not root.is_dir():
        return None
    if masks is not None and not ((root / masks).exists() or Path(masks).exists()):
        masks = None  # a finished run needs them no more
    index = MaskedFolder(root, regions=masks).index
    said = [index.names, index.splits, index.attributes, index.exclusive]
    digest = hashlib.sha256(json.dumps(said).encode())
    digest.update(index.labels.tobytes())
    return digest.hexdigest()


def _landmark_digest(root: Path, table: str | Path | None) -> str | None:
    """Of the file that :func:`fastcam.data.landmarks.resolve_landmarks` takes."""
    if table is not None:
        return file_digest(table)
    own = file_digest(root / LANDMARK_TABLE) or file_digest(root / FIVE_POINT_TABLE)
    return own or TEMPLATE


def _faces(root: Path) -> bool:
    return is_celeba(root) and not (root / CONFIG).is_file()
