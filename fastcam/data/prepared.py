"""A split at the training size, decoded once where memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from fastcam._util.progress import Count
from fastcam._util.seeds import derive_seed
from fastcam.data.celeba import CelebA, Sample, Subsets, attribute_subsets
from fastcam.data.transforms import FitSquare


def available_memory() -> int:
    """Bytes that can be allocated without swapping (0 where the system does not say)."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


class PreparedFaces(Dataset[Sample]):
    """A :class:`CelebA` split as squares of the training size.

    In memory that is one uint8 tensor of 3·size² bytes an image (128 px: 49 kB, so 12,000 images
    are 590 MB). Decoding runs in threads: both the JPEG decoder and the resize release the GIL.

    Args:
        faces: the split; its own ``transform`` must be None.
        size: side length in pixels.
        fit: see :class:`FitSquare`.
        augment: called with image and landmarks on every access, see :func:`augmentation`.
        indices: keep only these images of the split, in this order.
        cache: hold the images in memory; ``None`` does so where they fit into half of the memory
            that is free.
        workers: decoding threads.
        progress: called with (done, total) while the cache is filled.
        seed: with a seed, the augmentation of an image depends on the seed and the image alone, not
            on the order of access or the number of loader workers. Assign a new one for each epoch.

    Raises:
        ValueError: an image cannot be decoded; the message holds its name.
    """

    def __init__(
        self,
        faces: CelebA,
        size: int,
        *,
        fit: str = "crop",
        augment: Callable[..., tuple[Tensor, Tensor]] | None = None,
        indices: Sequence[int] | None = None,
        cache: bool | None = None,
        workers: int = 2,
        progress: Count | None = None,
        seed: int | None = None,
    ) -> None:
        if faces.transform is not None:
            raise ValueError(
                "faces: expected a split without a transform, got one with it; pass augment"
            )
        self.rows = list(range(len(faces))) if indices is None else [int(i) for i in indices]
        self.faces, self.size, self.fit = faces, size, fit
        self.augment, self.seed = augment, seed
        self.attributes = faces.attributes
        self.names = [faces.names[i] for i in self.rows]
        self.labels = faces.labels[self.rows]
        self._fit = FitSquare(size, fit)
        if cache is None:
            cache = len(self) * 3 * size * size < available_memory() // 2
        self._images: Tensor | None = None
        if cache:
            self._fill(workers, progress)

    def _fill(self, workers: int, progress: Count | None) -> None:
        images = torch.empty(len(self), 3, self.size, self.size, dtype=torch.uint8)
        landmarks = torch.empty(len(self), 68, 2)

        def load(position: int) -> None:
            images[position], landmarks[position] = self._read(position)

        with ThreadPoolExecutor(max(1, workers)) as pool:
            try:
                for done, _ in enumerate(pool.map(load, range(len(self))), 1):
                    if progress is not None:
                        progress(done, len(self))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        self._images, self._landmarks = images, landmarks

    @property
    def landmark_sources(self) -> dict[str, int]:
        """How many of the images have landmarks from which source."""
        return self.faces.landmark_sources_of(self.rows)

    @property
    def cached(self) -> bool:
        """Whether the images are held in memory."""
        return self._images is not None

    def _read(self, position: int) -> tuple[Tensor, tv_tensors.KeyPoints]:
        sample = self.faces[self.rows[position]]
        return self._fit(sample["image"], sample["landmarks"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        image: Tensor
        landmarks: Tensor
        if self._images is None:
            image, landmarks = self._read(index)
        else:
            image = tv_tensors.Image(self._images[index])
            points = self._landmarks[index].clone()
            landmarks = tv_tensors.KeyPoints(points, canvas_size=(self.size, self.size))
        if self.augment is not None:
            with torch.random.fork_rng(devices=[], enabled=self.seed is not None):
                if self.seed is not None:
                    torch.default_generator.manual_seed(derive_seed(self.seed, index))
                image, landmarks = self.augment(image, landmarks)
        return {
            "image": image,
            "labels": self.labels[index],
            "landmarks": landmarks,
            "index": index,
        }

    def attribute(self, name: str) -> int:
        """Position of an attribute; ValueError for an unknown name."""
        return self.faces.attribute(name)

    def subset(self, a: str, b: str) -> Subsets:
        """Indices of a∩b, a∩¬b and ¬a among these images, for two attribute names."""
        return attribute_subsets(self.labels, self.attribute(a), self.attribute(b))
