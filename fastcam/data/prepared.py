"""A split at the training size, decoded once where memory or disk allow."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from fastcam._util.cgroup import memory_left
from fastcam._util.files import WriteError
from fastcam._util.progress import Count
from fastcam.data.cache import Decoded, FileCache, MemoryCache, cache_folder
from fastcam.data.celeba import CelebA
from fastcam.data.labelled import (
    AnyRegion,
    Images,
    Labelled,
    Sample,
)
from fastcam.data.transforms import FitSquare
from fastcam.regions import FACE_PARTS

#: Of the free memory, and of the free disk, that the images may take unasked.
SHARE = 0.5


def available_memory() -> int:
    """Bytes that can be allocated without swapping (0 where the system does not say), and without
    passing the limit of a container or a job, whose process the kernel would kill."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free, left = int(line.split()[1]) * 1024, memory_left()
                return free if left is None else min(free, left)
    except (OSError, ValueError):
        pass
    return 0


class Stored(NamedTuple):
    """Where images are decoded from: their data folder, the names of all in it, what else decides
    what is kept (JSON values), and the stamps of ours."""

    root: Path
    files: Sequence[str]
    made: Mapping[str, Any]
    stamps: Callable[[], NDArray[np.uint64]]


class Prepared(Labelled, Dataset[Sample]):
    """A split as squares of the training size: what faces and other images have in common.

    Attributes:
        split: the images that these are some of, as they are stored.
        rows: which images of the split these are, N of them, in this order.
        size, fit: see :class:`FitSquare`.
        attributes, exclusive, names, labels: of these images, see
            :class:`fastcam.data.labelled.Images`.
        parts: names of the regions that stand for the parts of what is shown.
    """

    parts: Sequence[str]
    #: The key of what regions are drawn from in the samples.
    _places: str

    def __init__(self, images: Images, size: int, fit: str, indices: Sequence[int] | None) -> None:
        self.rows = list(range(len(images))) if indices is None else [int(i) for i in indices]
        self.size, self.fit = size, fit
        self.attributes, self.exclusive = images.attributes, images.exclusive
        self.names = [images.names[i] for i in self.rows]
        self.labels = images.labels[self.rows]
        self.split, self._fit = images, FitSquare(size, fit)
        self._cache: MemoryCache | None = None

    @property
    def cached(self) -> bool:
        """Whether the images are decoded already, in memory or in a file."""
        return self._cache is not None

    @property
    def landmark_sources(self) -> dict[str, int]:
        """How many of the images have landmarks from which source, or a mask of which region."""
        return self.sources_of(range(len(self)))

    def sources_of(self, indices: Sequence[int]) -> dict[str, int]:
        """The same of some of the images."""
        raise NotImplementedError

    def _shown(self, index: int) -> tuple[Tensor, Tensor]:
        """An image, and what its regions are drawn from, of which nobody else has the memory."""
        raise NotImplementedError

    def _stored(self) -> Stored:
        """What the images are decoded from."""
        raise NotImplementedError

    def _decode(self, index: int) -> Decoded:
        """An image, with what is kept beside it."""
        raise NotImplementedError

    def _keep(
        self, cache: bool | None, channels: int, workers: int, progress: Count | None
    ) -> None:
        """Decode the images into a file or into memory, if they are to be kept, and note where
        each of ours is there."""
        self._at_rows: NDArray[np.int64] = np.arange(len(self))
        why = ""
        if cache is not False:
            try:
                self._keep_in_file(1.0 if cache else SHARE, channels, workers, progress)
                return
            except WriteError as error:
                if cache:
                    raise
                why = str(error)
        if self._fits(channels):
            memory = MemoryCache(self._decode, len(self), self.size, channels)
            memory.fill(workers, progress)
            self._cache = memory
        elif why:
            warnings.warn(f"images are decoded again in every epoch: {why}", stacklevel=4)

    def _keep_in_file(
        self, share: float, channels: int, workers: int, progress: Count | None
    ) -> None:
        stored = self._stored()
        made = {
            "size": self.size,
            "fit": self.fit,
            "Pillow": PIL.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            **stored.made,
        }
        folder, info = cache_folder(stored.root, stored.files, made)
        place_of = {name: place for place, name in enumerate(stored.files)}
        places = np.array([place_of[name] for name in self.names], np.int64)
        self._at = np.full(len(stored.files), -1)
        self._at[places] = np.arange(len(self))
        cache = FileCache(folder, info, self._decode_at, len(stored.files), self.size, channels)
        cache.fill_rows(places, stored.stamps(), share=share, workers=workers, progress=progress)
        self._cache, self._at_rows = cache, places

    def _decode_at(self, place: int) -> Decoded:
        return self._decode(int(self._at[place]))

    def _fits(self, channels: int) -> bool:
        """Whether the images take less than their share of the free memory."""
        return len(self) * channels * self.size**2 < SHARE * available_memory()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        image, places = self._shown(index)
        sample: Any = {"image": image, "labels": self.labels[index], "index": index}
        sample[self._places] = places
        return sample

    def region(self, text: str) -> AnyRegion:
        """A region by its text; ValueError for one that the data do not have."""
        return self.split.region(text)


class PreparedFaces(Prepared):
    """A :class:`CelebA` split as squares of the training size.

    That is 3·size² bytes an image (128 px: 49 kB, so 12,000 images are 590 MB), decoded once.
    Decoding runs in threads: both the JPEG decoder and the resize release the GIL.

    Args:
        faces: the split; its own ``transform`` must be None.
        size: side length in pixels.
        fit: see :class:`FitSquare`.
        indices: keep only these images of the split, in this order.
        cache: keep the decoded images in a file for this run and later ones, see
            :func:`fastcam.data.cache.cache_folder`; False holds them in memory where they fit into
            half of what is free, and otherwise decodes an image whenever it is asked for. None
            makes a file where that takes at most half of the free disk, else does as False.
        workers: decoding threads.
        progress: called with (done, total) while images are decoded.

    Raises:
        ValueError: an image cannot be decoded; the message holds its name.
        WriteError: ``cache`` is True and the file cannot be written.

    Warns:
        UserWarning: images will be decoded again in every epoch; says why.
    """

    _places = "landmarks"
    parts = FACE_PARTS

    def __init__(
        self,
        faces: CelebA,
        size: int,
        *,
        fit: str = "crop",
        indices: Sequence[int] | None = None,
        cache: bool | None = None,
        workers: int = 2,
        progress: Count | None = None,
    ) -> None:
        if faces.transform is not None:
            raise ValueError("faces: expected a split without a transform, got one with it")
        super().__init__(faces, size, fit, indices)
        self.faces = faces
        self._keep(cache, 3, workers, progress)
        if self._cache is not None:
            self._landmarks = self._fitted_landmarks(self._cache.sizes(self._at_rows))

    def _stored(self) -> Stored:
        source = self.faces.source
        return Stored(self.faces.root, source.files, {}, lambda: source.stamps(self.names))

    def _decode(self, index: int) -> Decoded:
        image = self.faces[self.rows[index]]["image"]
        pixels = self._fit.image(image).as_subclass(Tensor)
        return Decoded(pixels.numpy(), image.shape[-1], image.shape[-2])

    def _fitted_landmarks(self, sizes: NDArray[np.int64]) -> Tensor:
        points = self.faces.points(self.rows, sizes)
        fitted = torch.empty(points.shape)
        for width, height in np.unique(sizes, axis=0).tolist():
            here = torch.from_numpy((sizes == (width, height)).all(1))
            some = tv_tensors.KeyPoints(points[here], canvas_size=(height, width))
            fitted[here] = self._fit.points(some).as_subclass(Tensor)
        return fitted

    def sources_of(self, indices: Sequence[int]) -> dict[str, int]:
        return self.faces.landmark_sources_of([self.rows[i] for i in indices])

    def _shown(self, index: int) -> tuple[Tensor, Tensor]:
        if self._cache is None:
            sample = self.faces[self.rows[index]]
            return self._fit(sample["image"], sample["landmarks"])
        pixels = self._cache.images(self._at_rows[[index]])[0]
        points = self._landmarks[index].clone()
        return (
            tv_tensors.Image(torch.from_numpy(pixels)),
            tv_tensors.KeyPoints(points, canvas_size=(self.size, self.size)),
        )
