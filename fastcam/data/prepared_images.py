"""A split of images with masks at the training size, decoded once where memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from fastcam._util.progress import Count
from fastcam._util.seeds import derive_seed
from fastcam.data.folder import MaskedImages
from fastcam.data.labelled import AnyRegion, Sample, Subsets, attribute_index, attribute_subsets
from fastcam.data.prepared import available_memory
from fastcam.data.transforms import FitSquare


class PreparedImages(Dataset[Sample]):
    """A :class:`MaskedImages` split as squares of the training size, with its masks.

    What :class:`PreparedFaces` is for faces; arguments and attributes are the same, but that
    ``cache`` is of memory alone: True holds the images there, False decodes them in every epoch,
    and None holds them where they fit into half of what is free. An image takes (3 + R)·size²
    bytes.

    Raises:
        ValueError: an image or a mask cannot be read; the message holds its name.
    """

    def __init__(
        self,
        images: MaskedImages,
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
        self.rows = list(range(len(images))) if indices is None else [int(i) for i in indices]
        self.images, self.size, self.fit = images, size, fit
        self.augment, self.seed = augment, seed
        self.attributes, self.exclusive = images.attributes, images.exclusive
        self.names = [images.names[i] for i in self.rows]
        self.labels = images.labels[self.rows]
        self.parts = images.shown
        self._fit = FitSquare(size, fit)
        channels = 3 + len(images.shown)
        if cache is None:
            cache = len(self) * channels * size * size < available_memory() // 2
        self._kept: Tensor | None = None
        if cache:
            self._fill(channels, workers, progress)

    def _fill(self, channels: int, workers: int, progress: Count | None) -> None:
        kept = torch.empty(len(self), channels, self.size, self.size, dtype=torch.uint8)

        def load(position: int) -> None:
            kept[position] = self._read(position)

        with ThreadPoolExecutor(max(1, workers)) as pool:
            try:
                for done, _ in enumerate(pool.map(load, range(len(self))), 1):
                    if progress is not None:
                        progress(done, len(self))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        self._kept = kept

    def _read(self, position: int) -> Tensor:
        """Image and masks, uint8 [3 + R, S, S]: resized alike, so that masks keep their areas."""
        sample = self.images[self.rows[position]]
        both = torch.cat([sample[key].as_subclass(Tensor) for key in ("image", "masks")])
        nowhere = tv_tensors.KeyPoints(torch.zeros(1, 2), canvas_size=both.shape[-2:])
        return self._fit(tv_tensors.Image(both), nowhere)[0].as_subclass(Tensor)

    @property
    def landmark_sources(self) -> dict[str, int]:
        """How many of the images have a mask of each region."""
        return self.images.counts(self.rows)

    @property
    def cached(self) -> bool:
        """Whether the images are held in memory."""
        return self._kept is not None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        both = self._read(index) if self._kept is None else self._kept[index].clone()
        image: Tensor = tv_tensors.Image(both[:3])
        masks: Tensor = tv_tensors.Mask(both[3:])
        if self.augment is not None:
            with torch.random.fork_rng(devices=[], enabled=self.seed is not None):
                if self.seed is not None:
                    torch.default_generator.manual_seed(derive_seed(self.seed, index))
                image, masks = self.augment(image, masks)
        return {"image": image, "labels": self.labels[index], "masks": masks, "index": index}

    def region(self, text: str) -> AnyRegion:
        """A region by its text; ValueError for one that was not prepared."""
        return self.images.region(text)

    def attribute(self, name: str) -> int:
        """Position of an attribute; ValueError for an unknown name."""
        return attribute_index(self.attributes, name)

    def subset(self, a: str, b: str) -> Subsets:
        """Indices of a∩b, a∩¬b and ¬a among these images, for two attribute names."""
        return attribute_subsets(self.labels, self.attribute(a), self.attribute(b))
