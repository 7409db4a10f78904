"""Writes a synthetic set in CelebA's official layout: resumable, in parallel, never a half-written
file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np

from fastcam._util.claim import claim
from fastcam._util.extras import require
from fastcam._util.files import json_with, make_folder, remove_leftovers, write_atomic, write_json
from fastcam._util.progress import Count, advancing
from fastcam._util.workers import cpus, in_processes
from fastcam.data.cache import remove_caches
from fastcam.data.landmarks import LANDMARK_TABLE
from fastcam.data.source import FOLDER as IMAGE_FOLDER
from fastcam.data.tables import ATTRIBUTE_TABLE, PARTITION_TABLE
from fastcam.regions.table import LandmarkSource, LandmarkTable

from .attributes import ATTRIBUTES, Cooccurrence, resolve_cooccurrence
from .render import DEFAULT_SIZE, check_size, face_landmarks, render_face
from .sampling import sample_face

GENERATOR_VERSION = 1  # raise it whenever the same parameters give other pictures
JPEG_QUALITY = 93
MANIFEST = "synthetic.json"
_is_manifest = json_with("parameters", "sha256")
_TABLES = (ATTRIBUTE_TABLE, PARTITION_TABLE, LANDMARK_TABLE)
_CHUNK = 16


@dataclass(frozen=True)
class _Job:
    folder: str
    seed: int
    size: tuple[int, int]
    cooccurrence: tuple[tuple[tuple[str, str], tuple[float, float]], ...]


def generate(
    root: str | os.PathLike[str],
    num_images: int = 4000,
    *,
    seed: int = 0,
    size: tuple[int, int] = DEFAULT_SIZE,
    cooccurrence: Cooccurrence | None = None,
    splits: tuple[float, float, float] = (0.7, 0.1, 0.2),
    workers: int | None = None,
    progress: bool | Count = True,
) -> Path:
    """Draw faces and write them as a data set in CelebA's official layout.

    Writes `img_align_celeba/000001.jpg` …, `list_attr_celeba.txt`, `list_eval_partition.txt`,
    `landmarks68.npz` (true 68-point landmarks, source 3) and `synthetic.json` (the parameters).
    Image i depends on the parameters and on i alone, not on the number of workers. A run that was
    stopped goes on where it stopped when it is called again with the same parameters; with
    everything there already, only the tables are written again.

    Args:
        root: folder of the set; made if missing.
        num_images: how many faces.
        seed: seed of the set, ≥ 0.
        size: (width, height) of the images in pixels.
        cooccurrence: {(a, b): p} with p = P(b | a) = P(not b | not a), or {(a, b): (P(b | a), P(b
            | not a))}, laid over `DEFAULT_COOCCURRENCE`; see `resolve_cooccurrence`.
        splits: shares of training, validation and test images, which follow one another in this
            order.
        workers: processes; None for one for each available processor, 0 or 1 for none besides this
            one.
        progress: True for a bar (if rich is installed and stderr is a terminal), or a function of
            (done, total).

    Returns:
        `root` as a Path.

    Raises:
        ValueError: a bad argument, or `root` holds another data set, or one made with other
            parameters.
        BlockingIOError: another process writes there.
        OSError: a file cannot be written; what is there is kept, and the same call goes on.
        ImportError: Pillow is missing (extra `train`).
    """
    require("PIL.Image", "train")
    size = check_size(size)
    if num_images < 1 or num_images > 999_999:
        raise ValueError(f"num_images: expected 1 to 999999, got {num_images}")
    if seed < 0:
        raise ValueError(f"seed: expected an integer >= 0, got {seed}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers: expected None or an integer >= 0, got {workers}")
    counts = split_counts(num_images, splits)
    pairs = resolve_cooccurrence(cooccurrence)
    root = Path(root)
    parameters: dict[str, object] = {
        "generator_version": GENERATOR_VERSION,
        "num_images": num_images,
        "seed": seed,
        "size": list(size),
        "splits": counts,
        "cooccurrence": {f"{a}, {b}": list(p) for (a, b), p in sorted(pairs.items())},
        "jpeg_quality": JPEG_QUALITY,
    }
    if root.exists() and not root.is_dir():
        raise ValueError(f"root: expected a folder, got the file {root}")
    with claim(root):
        _own(root, parameters)
        folder = make_folder(root / IMAGE_FOLDER)
        remove_leftovers(folder)
        labels = np.empty((num_images, len(ATTRIBUTES)), dtype=bool)
        landmarks = np.empty((num_images, 68, 2), dtype=np.float32)
        job = _Job(str(folder), seed, size, tuple(sorted(pairs.items())))
        chunks = [range(i, min(i + _CHUNK, num_images)) for i in range(0, num_images, _CHUNK)]
        with advancing(progress, "drawing faces", num_images) as advance:
            for chunk, chunk_labels, chunk_landmarks in _run(job, chunks, workers):
                labels[chunk.start : chunk.stop] = chunk_labels
                landmarks[chunk.start : chunk.stop] = chunk_landmarks
                advance(len(chunk))
        _write_tables(root, labels, landmarks, counts, size)
    return root


def remove_faces(root: str | os.PathLike[str]) -> None:
    """Remove what :func:`generate` wrote into a folder, and the folder if nothing else is in it.

    A folder without its manifest is left as it is.
    """
    root = Path(root)
    folder = root / IMAGE_FOLDER
    if (root / MANIFEST).is_file() and _is_manifest(root / MANIFEST):
        for image in folder.glob("[0-9][0-9][0-9][0-9][0-9][0-9].jpg"):
            image.unlink()
        for name in (*_TABLES, MANIFEST):
            (root / name).unlink(missing_ok=True)
        remove_caches(root)
    for empty in (folder, root):
        with contextlib.suppress(OSError):  # not there, or not empty
            empty.rmdir()


def image_name(index: int) -> str:
    """File name of image `index` (from 0), as in CelebA: `000001.jpg` is the first."""
    return f"{index + 1:06d}.jpg"


def split_counts(num_images: int, splits: tuple[float, float, float]) -> list[int]:
    """How many images each split has; ValueError for shares that do not sum to 1."""
    shares = np.asarray(splits, dtype=np.float64)
    if shares.shape != (3,) or not np.all(shares >= 0) or abs(float(shares.sum()) - 1.0) > 1e-6:
        raise ValueError(
            f"splits: expected three shares >= 0 that sum to 1 (train, valid, test), got {splits!r}"
        )
    ends = np.rint(np.cumsum(shares) * num_images).astype(int)
    return [int(n) for n in np.diff(ends, prepend=0)]


def _own(root: Path, parameters: dict[str, object]) -> None:
    """Make `root` the home of these parameters, or say why it cannot be."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    manifest = root / MANIFEST
    if manifest.exists():
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
            before, old_digest = dict(found["parameters"]), str(found["sha256"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"root: {manifest} is not a manifest of synthetic faces; choose another folder"
            ) from None
        if old_digest != digest:
            other = [k for k in parameters if before.get(k) != parameters[k]]
            told = (
                "; ".join(f"{k} was {before.get(k)!r}, now {parameters[k]!r}" for k in other)
                or "hash differs"
            )
            raise ValueError(
                f"root: {root} holds faces made with other parameters ({told}); "
                "choose another folder or delete this one"
            )
        return
    for name in (IMAGE_FOLDER, f"{IMAGE_FOLDER}.zip", *_TABLES):
        if (root / name).exists():
            raise ValueError(
                f"root: {root} holds another data set ({name} without {MANIFEST}); "
                "choose another folder"
            )
    content = {"parameters": parameters, "sha256": digest}
    write_json(manifest, content, ours=_is_manifest)


def _write(path: Path, data: bytes, sync: bool = True) -> None:
    """Everything in a folder with our manifest is ours."""
    write_atomic(path, lambda file: file.write(data), sync=sync)


def _is_whole(path: Path) -> bool:
    """A JPEG that ends as one should. Ours always do; a file cut off by a full disk or a copy does
    not."""
    try:
        with path.open("rb") as file:
            file.seek(-2, os.SEEK_END)
            return file.read(2) == b"\xff\xd9"
    except OSError:
        return False


def _make_chunk(job: _Job, chunk: range) -> tuple[range, np.ndarray, np.ndarray]:
    image_module = require("PIL.Image", "train")
    labels, landmarks = [], []
    for index in chunk:
        face = sample_face(job.seed, index, cooccurrence=dict(job.cooccurrence))
        path = Path(job.folder) / image_name(index)
        if _is_whole(path):
            points = face_landmarks(face, job.size)
        else:
            image, points = render_face(face, job.size)
            buffer = BytesIO()
            image_module.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
            _write(path, buffer.getvalue(), sync=False)
        labels.append(list(face.attributes.values()))
        landmarks.append(points)
    return chunk, np.array(labels, dtype=bool), np.stack(landmarks)


def _one_thread() -> None:
    """With BLAS's own threads on top, drawing takes three times as long."""
    require("threadpoolctl", extra="train").threadpool_limits(1)


def _run(
    job: _Job, chunks: list[range], workers: int | None
) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
    """Results of `_make_chunk` as they come."""
    workers = min(cpus() if workers is None else workers, len(chunks))
    if workers <= 1:
        for chunk in chunks:
            yield _make_chunk(job, chunk)
        return
    yield from in_processes(partial(_make_chunk, job), chunks, workers, _one_thread)


def _write_tables(
    root: Path, labels: np.ndarray, landmarks: np.ndarray, counts: list[int], size: tuple[int, int]
) -> None:
    names = [image_name(i) for i in range(len(labels))]
    rows = [
        f"{name} " + " ".join("1" if v else "-1" for v in row)
        for name, row in zip(names, labels, strict=True)
    ]
    text = "\n".join([str(len(names)), " ".join(ATTRIBUTES), *rows]) + "\n"
    _write(root / ATTRIBUTE_TABLE, text.encode())
    part = np.repeat([0, 1, 2], counts)
    text = "\n".join(f"{name} {p}" for name, p in zip(names, part, strict=True)) + "\n"
    _write(root / PARTITION_TABLE, text.encode())
    LandmarkTable(
        name=np.array(names),
        landmarks=landmarks,
        source=np.full(len(names), LandmarkSource.GROUND_TRUTH, dtype=np.uint8),
        size=np.tile(np.array(size, dtype=np.int32), (len(names), 1)),
    ).save(root / LANDMARK_TABLE)
