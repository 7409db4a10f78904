"""A split of images with masks at the training size, decoded once where memory or disk allow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors

from fastcam._util.progress import Count
from fastcam.data.cache import Decoded
from fastcam.data.folder import MaskedImages
from fastcam.data.prepared import Prepared, Stored


class PreparedImages(Prepared):
    """A :class:`MaskedImages` split as squares of the training size, with its masks.

    What :class:`PreparedFaces` is for faces; arguments and attributes are the same. An image takes
    (3 + R)·size² bytes; those of other regions have a file of their own.

    Raises:
        ValueError: an image or a mask cannot be read; the message holds its name.
        WriteError: ``cache`` is True and the file cannot be written.
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
        self._keep(cache, 3 + len(images.shown), workers, progress)

    def _stored(self) -> Stored:
        images, layout = self.images, self.images.folder.layout
        made = {
            "regions": [[name, layout.regions.get(name, "")] for name in images.shown],
            "coco": list(layout.coco),
            "folder": layout.images,
        }
        files = images.folder.index.names
        return Stored(images.folder.root, files, made, lambda: images.stamps(self.rows))

    def sources_of(self, indices: Sequence[int]) -> dict[str, int]:
        return self.images.counts([self.rows[i] for i in indices])

    def _decode(self, index: int) -> Decoded:
        """Image and masks, resized alike, so that masks keep their areas."""
        sample = self.images[self.rows[index]]
        both = torch.cat([sample[key].as_subclass(Tensor) for key in ("image", "masks")])
        pixels = self._fit.image(both).as_subclass(Tensor)
        return Decoded(pixels.numpy(), both.shape[-1], both.shape[-2])

    def _shown(self, index: int) -> tuple[Tensor, Tensor]:
        if self._cache is None:
            pixels = self._decode(index).pixels
        else:
            pixels = self._cache.images(self._at_rows[[index]])[0]
        both = torch.from_numpy(pixels)
        return tv_tensors.Image(both[:3]), tv_tensors.Mask(both[3:])
