"""Finding the landmarks of a whole data set once, with dlib (extra ``landmarks``)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastcam._util import checks as check
from fastcam._util.extras import require
from fastcam._util.files import make_folder, write_text
from fastcam._util.names import printable
from fastcam._util.progress import advancing
from fastcam._util.workers import cpus, in_processes
from fastcam.regions.predictor import find_predictor
from fastcam.regions.table import LandmarkSource, LandmarkTable
from fastcam.regions.template import template_landmarks

CHUNK = 64  # images between two saves: about half a second of one process


class ImageReader(Protocol):
    """What :func:`detect_landmarks` reads from; ``fastcam.data.ImageSource`` is one.

    With several workers it is handed to other processes: by fork on Linux, else pickled.
    """

    @property
    def names(self) -> Sequence[str]:
        """The images' names, each once."""

    def read(self, name: str) -> bytes:
        """The encoded image, of any kind that Pillow reads."""


class FaceDetector:
    """dlib's frontal face detector and 68-point predictor.

    Args:
        predictor: see :func:`~fastcam.regions.predictor.find_predictor`.
        upsample: how often the image is doubled before the search; finds faces under 80 pixels, at
            about four times the time for each.

    Raises:
        ImportError: dlib or Pillow is missing.
        FileNotFoundError, ValueError: the predictor is missing, or not one for 68 points.
    """

    def __init__(self, predictor: str | os.PathLike[str] | None = None, upsample: int = 0) -> None:
        dlib: Any = require("dlib", extra="landmarks")
        path = find_predictor(predictor)
        try:
            self._predict = dlib.shape_predictor(str(path))
        except RuntimeError as error:
            raise ValueError(f"predictor: dlib cannot load {str(path)!r}: {error}") from error
        self._detect = dlib.get_frontal_face_detector()
        self._upsample = upsample

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Landmarks of the face that stands nearest to the template's place, or None.

        Args:
            image: uint8 [H, W, 3], RGB.

        Returns:
            float32 [68, 2] in pixels (dlib's pixel indices + 0.5), or None where no face is found.
        """
        boxes = self._detect(image, self._upsample)
        if not len(boxes):
            return None
        place = template_landmarks(image.shape[1], image.shape[0]).mean(0)
        box = min(
            boxes,
            key=lambda b: float(np.hypot(b.center().x - place[0], b.center().y - place[1])),
        )
        points = self._predict(image, box).parts()
        if len(points) != 68:
            raise ValueError(f"predictor: expected one of 68 points, got one of {len(points)}")
        return np.array([(p.x, p.y) for p in points], dtype=np.float32) + np.float32(0.5)


def detect_landmarks(
    images: ImageReader,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    progress: bool = True,
    predictor: str | os.PathLike[str] | None = None,
    upsample: int = 0,
    overwrite: bool = False,
) -> LandmarkTable:
    """Find the 68 landmarks of every image and keep them in a file.

    Images in which no face is found get the template's landmarks, marked and counted as such. The
    work is saved every few dozen images beside ``out``: a run that was stopped goes on where it
    was, and ``out`` itself appears only when complete. Images that ``out`` already holds are not
    searched again, unless they have another size by now.

    Args:
        images: names and bytes of the images.
        out: the file to write, usually ``<data set>/landmarks68.npz``.
        workers: number of processes; None takes one for each CPU, 1 works in this process.
        progress: show a progress bar and a closing line on stderr.
        predictor: dlib's 68-point model, if it is not where
            :func:`~fastcam.regions.predictor.find_predictor` looks.
        upsample: how often images are doubled before the search (0 suits CelebA).
        overwrite: search images again that ``out`` already holds.

    Returns:
        The table as written: ``images.names`` in order, then what ``out`` held besides. Its
        :meth:`~LandmarkTable.counts` say how many faces were found.

    Raises:
        ImportError: dlib, Pillow or (for the progress bar) Rich is missing.
        FileNotFoundError: the predictor is missing.
        ValueError: an argument or an image that cannot be read; the image is named, and what was
            found before is kept.
        ChildProcessError: a worker process was killed; run again to go on.
    """
    out = Path(out)
    names = [str(name) for name in images.names]
    if len(set(names)) != len(names):
        raise ValueError("images: expected no name twice")
    workers = cpus() if workers is None else workers
    check.at_least("workers", workers, 1)
    check.at_least("upsample", upsample, 0)
    before = LandmarkTable.load(out) if out.exists() else LandmarkTable.empty()

    todo = names
    if not overwrite:
        exchanged = _exchanged(images, names, before)
        if exchanged:
            _say(
                progress,
                f"{len(exchanged)} images have another size than in {out} and are searched again,"
                f" for example {printable(exchanged[0])}",
            )
        fresh = {*_absent(names, before.name), *exchanged}
        todo = [name for name in names if name in fresh]
    kept = before.select(_absent(before.name, todo))
    if not todo:
        _remove_parts(out)  # of a process that was killed after it had written the table
        _say(progress, f"{out} already holds all {len(names)} images: {_summary(before)}")
        return before

    require("dlib", extra="landmarks")
    require("PIL.Image", extra="landmarks")
    model = find_predictor(predictor)
    settings = {"model": model.stat().st_size, "upsample": upsample}
    parts = _Parts(out, {**settings, "images": _identity(images, names)})
    done = parts.load(todo)
    rest = _absent(todo, done.name)
    with advancing(progress, "finding faces", len(todo), len(done)) as advance:
        for table in _search(images, rest, workers, str(model), upsample):
            parts.add(table)
            advance(len(table))

    table = LandmarkTable.concatenate([kept, parts.load(todo)])
    wanted = set(names)
    others = [str(name) for name in kept.name if str(name) not in wanted]
    table = table.select([*names, *others])
    table.save(out)
    parts.remove()
    _say(progress, f"{out}: {len(table)} images, {_summary(table)}")
    return table


def _identity(images: ImageReader, names: Sequence[str]) -> str:
    """Tells data sets apart, also those of the same file names, by where the images lie."""
    path = getattr(images, "path", None)
    place = "" if path is None else str(Path(path).resolve())
    return hashlib.sha256("\0".join([place, *names]).encode(errors="surrogateescape")).hexdigest()


def _absent(names: Sequence[str] | NDArray[np.str_], known: Any) -> list[str]:
    seen = {str(name) for name in known}
    return [str(name) for name in names if str(name) not in seen]


def _exchanged(images: ImageReader, names: Sequence[str], table: LandmarkTable) -> list[str]:
    """The names whose images have another size than when the table was made."""
    require("PIL.Image", extra="landmarks")
    from fastcam.data.decoding import image_size

    known = [name for name, there in zip(names, table.contains(names), strict=True) if there]
    sizes = table.select(known).size.tolist()
    return [
        name
        for name, size in zip(known, sizes, strict=True)
        if image_size(images.read(name), name) != tuple(size)
    ]


def _summary(table: LandmarkTable) -> str:
    counts = table.counts()
    template = counts.get("template", 0)
    text = ", ".join(f"{number} {source}" for source, number in counts.items())
    if template:
        text += f" ({template / len(table):.1%} without a detected face use the template face)"
    return text or "empty"


def _parts_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def _remove_parts(out: Path) -> None:
    shutil.rmtree(_parts_folder(out), ignore_errors=True)


class _Parts:
    """Finished chunks of a run, as small tables in a folder beside the output."""

    def __init__(self, out: Path, settings: dict[str, int | str]) -> None:
        self.out, self.folder = out, _parts_folder(out)
        mark = self.folder / "settings.json"
        text = json.dumps(settings, sort_keys=True)
        if self.folder.exists() and not (mark.is_file() and mark.read_text() == text):
            self.remove()  # of another model or setting, which must not be mixed with this one
        if not self.folder.exists():
            make_folder(self.folder)
            write_text(mark, text)

    def add(self, table: LandmarkTable) -> None:
        table.save(self.folder / f"{uuid.uuid4().hex}.npz")

    def load(self, names: Sequence[str]) -> LandmarkTable:
        """What is there of these names."""
        tables = [LandmarkTable.load(path) for path in sorted(self.folder.glob("*.npz"))]
        seen: set[str] = set()
        unique = []
        for table in tables:  # two runs at once may have searched the same image
            fresh = [name for name in table.name.tolist() if name not in seen]
            seen.update(fresh)
            unique.append(table.select(fresh))
        found = LandmarkTable.concatenate(unique)
        return found.select([name for name in names if name in seen])

    def remove(self) -> None:
        _remove_parts(self.out)


class _Worker:
    """One process's detector, made when the first chunk comes."""

    images: ImageReader
    settings: tuple[str, int]
    detector: FaceDetector | None = None

    def start(self, images: ImageReader, model: str, upsample: int) -> None:
        self.images, self.settings, self.detector = images, (model, upsample), None

    def search(self, names: list[str]) -> LandmarkTable:
        if self.detector is None:  # here, not in `start`: an error then reaches the caller
            self.detector = FaceDetector(*self.settings)
        from fastcam.data.decoding import decode_pixels  # needs Pillow, which is optional

        landmarks, source, size = [], [], []
        for name in names:
            pixels = decode_pixels(self.images.read(name), name)
            height, width = pixels.shape[:2]
            found = self.detector(pixels)
            source.append(LandmarkSource.TEMPLATE if found is None else LandmarkSource.DLIB)
            landmarks.append(template_landmarks(width, height) if found is None else found)
            size.append((width, height))
        return LandmarkTable(
            np.array(names, dtype=np.str_),
            np.array(landmarks, dtype=np.float32),
            np.array(source, dtype=np.uint8),
            np.array(size, dtype=np.int32),
        )


_worker = _Worker()  # one per process of the pool


def _start_worker(images: ImageReader, model: str, upsample: int) -> None:
    _worker.start(images, model, upsample)


def _search_chunk(names: list[str]) -> LandmarkTable:
    return _worker.search(names)


def _search(
    images: ImageReader, names: list[str], workers: int, model: str, upsample: int
) -> Iterator[LandmarkTable]:
    """Tables of the names' chunks, in any order."""
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    if workers == 1 or len(chunks) <= 1:  # none: killed when only the table was not yet written
        worker = _Worker()
        worker.start(images, model, upsample)
        for chunk in chunks:
            yield worker.search(chunk)
        return
    workers = min(workers, len(chunks))
    yield from in_processes(
        _search_chunk, chunks, workers, _start_worker, (images, model, upsample)
    )


def _say(show: bool, line: str) -> None:
    if show:
        line = printable(line)
        console: Any = require("rich.console", extra="landmarks")
        console.Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
