"""A split of images with masks at the training size, decoded once where memory allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors

from fastcam._util.progress import Count
from fastcam.data.cache import Decoded, MemoryCache
from fastcam.data.folder import MaskedImages
from fastcam.data.prepared import Prepared


class PreparedImages(Prepared):
    """A :class:`MaskedImages` split as squares of the training size, with its masks.

    What :class:`PreparedFaces` is for faces; arguments and attributes are the same, but that
    ``cache`` is of memory alone: True holds the images there, False decodes them in every epoch,
    and None holds them where they fit into half of what is free. An image takes (3 + R)·size²
    bytes.

    Raises:
        ValueError: an image or a mask cannot be read; the message holds its name.
    """

    _places = "masks"

    def __init__(
        self,
        images: MaskedImages,
        size: int,
        *,
        fit: str = "crop",
        indices: Sequence[int] | None = None,
        cache: bool | None = None,
        workers: int = 2,
        progress: Count | None = None,
    ) -> None:
        super().__init__(images, size, fit, indices)
        self.images, self.parts = images, images.shown
        channels = 3 + len(images.shown)
        if self._fits(channels) if cache is None else cache:
            self._cache = MemoryCache(self._decode, len(self), size, channels)
            self._cache.fill(workers, progress)

    @property
    def landmark_sources(self) -> dict[str, int]:
        return self.images.counts(self.rows)

    def _decode(self, index: int) -> Decoded:
        """Image and masks, resized alike, so that masks keep their areas."""
        sample = self.images[self.rows[index]]
        both = torch.cat([sample[key].as_subclass(Tensor) for key in ("image", "masks")])
        pixels = self._fit.image(both).as_subclass(Tensor)
        return Decoded(pixels.numpy(), both.shape[-1], both.shape[-2])

    def _shown(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = self._decode(index)[0] if self._cache is None else self._cache.images([index])[0]
        both = torch.from_numpy(pixels)
        return tv_tensors.Image(both[:3]), tv_tensors.Mask(both[3:])
