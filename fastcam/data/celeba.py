"""CelebA, or any folder in its layout, as a dataset of images, attribute labels and landmarks."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fastcam._util import checks as check
from fastcam._util.extras import require
from fastcam._util.names import absent_images
from fastcam.data.labelled import Labelled, Sample, attribute_index
from fastcam.data.landmarks import resolve_landmarks
from fastcam.data.source import ImageSource
from fastcam.data.tables import (
    ATTRIBUTE_TABLE,
    PARTITION_TABLE,
    SPLITS,
    Table,
    read_attributes,
    read_partition,
)
from fastcam.regions import Region

for _module in ("torchvision", "PIL.Image"):
    require(_module, extra="train")
from torchvision import tv_tensors  # noqa: E402

from fastcam.data.decoding import decode_pixels  # noqa: E402


def decode(data: bytes, name: str = "image") -> tv_tensors.Image:
    """Decode an image file to uint8 [3, H, W], RGB.

    It comes out as :func:`~fastcam.data.decoding.decode_pixels` says.

    Raises:
        ValueError: the bytes are no image; the message holds ``name``.
    """
    pixels = torch.from_numpy(decode_pixels(data, name))
    return tv_tensors.Image(pixels.permute(2, 0, 1).contiguous())


class FaceTables:
    """Images and tables of a folder in CelebA's layout, each read once, for several splits.

    Args:
        root: the folder.

    Its attributes raise what :class:`CelebA` does.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @cached_property
    def source(self) -> ImageSource:
        """The image files."""
        return ImageSource(self.root)

    @cached_property
    def attributes(self) -> Table:
        """The labels of all splits."""
        return read_attributes(self.root / ATTRIBUTE_TABLE)

    @cached_property
    def partition(self) -> dict[str, int]:
        """The split of each image, as its position in ``SPLITS``."""
        return read_partition(self.root / PARTITION_TABLE)


class CelebA(Labelled, Dataset[Sample]):
    """Faces in the official CelebA layout, real or synthetic.

    Args:
        root: folder with ``img_align_celeba/`` or ``img_align_celeba.zip``,
            ``list_attr_celeba.txt`` and (unless ``split="all"``) ``list_eval_partition.txt``; or
            what was read of it.
        split: ``"train"``, ``"valid"``, ``"test"`` or ``"all"``.
        transform: called with ``image`` (tv_tensors.Image) and ``landmarks``
            (tv_tensors.KeyPoints), returns both; any torchvision v2 transform will do.
        landmarks: landmark table to use in place of ``root/landmarks68.npz``.
        attributes: keep only these columns, in this order; None keeps all of the table's header.
        regions: whether regions are going to be drawn; False says nothing of missing landmarks.

    Attributes:
        attributes: the attribute names, K of them.
        names: the image file names of the split, N of them.
        labels: float32 [N, K], 0 or 1.
        exclusive: whether an image has one of the attributes alone; False.

    Raises:
        FileNotFoundError: a part of the layout is missing.
        ValueError: an unknown split, a malformed table, or tables that do not fit the images.

    Warns:
        UserWarning: there is no landmark table, so regions are approximate.
    """

    exclusive = False

    def __init__(
        self,
        root: str | Path | FaceTables,
        split: str = "train",
        transform: Callable[..., tuple[Tensor, Tensor]] | None = None,
        *,
        landmarks: str | Path | None = None,
        attributes: Sequence[str] | None = None,
        regions: bool = True,
    ) -> None:
        check.one_of("split", split, (*SPLITS, "all"))
        tables = root if isinstance(root, FaceTables) else FaceTables(root)
        self.root, self.split, self.transform = tables.root, split, transform
        self.source, table = tables.source, tables.attributes
        rows = np.arange(len(table.names))
        if split != "all":
            partition = tables.partition
            lost = [n for n in table.names if n not in partition]
            if lost:
                place = str(self.root / PARTITION_TABLE)
                raise ValueError(absent_images(place, lost, ATTRIBUTE_TABLE, partition))
            wanted = SPLITS.index(split)
            rows = np.array([i for i, n in enumerate(table.names) if partition[n] == wanted], int)
        self.attributes = list(table.columns if attributes is None else attributes)
        columns = [attribute_index(table.columns, name) for name in self.attributes]
        self.names = [table.names[i] for i in rows]
        self.source.require(self.names, ATTRIBUTE_TABLE)
        self.labels = torch.from_numpy(table.values[rows][:, columns].astype(np.float32))
        first = decode(self.source.read(self.names[0]), self.names[0]) if self.names else None
        self.image_size = (218, 178) if first is None else (first.shape[-2], first.shape[-1])
        self._landmarks = resolve_landmarks(
            self.root, self.names, table=landmarks, image_size=self.image_size
        )
        if self.names:
            height, width = self.image_size
            self._landmarks.check(0, self.names[0], width, height)
        if regions and self._landmarks.note:
            warnings.warn(self._landmarks.note, stacklevel=2)

    @property
    def landmark_sources(self) -> dict[str, int]:
        """How many images got landmarks from which source."""
        return self.landmark_sources_of(range(len(self)))

    def landmark_sources_of(self, indices: Iterable[int]) -> dict[str, int]:
        """How many of some images got landmarks from which source."""
        return dict(Counter(self._landmarks.sources[i] for i in indices))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        image: Tensor = decode(self.source.read(self.names[index]), self.names[index])
        size = (image.shape[-2], image.shape[-1])
        self._landmarks.check(index, self.names[index], width=size[1], height=size[0])
        points = torch.tensor(self._landmarks.points[index])
        landmarks: Tensor = tv_tensors.KeyPoints(points, canvas_size=size)
        if self.transform is not None:
            image, landmarks = self.transform(image, landmarks)
        return {
            "image": image,
            "labels": self.labels[index],
            "landmarks": landmarks,
            "index": index,
        }

    def points(self, rows: Sequence[int], sizes: NDArray[np.int64]) -> Tensor:
        """Landmarks of N images, float32 [N, 68, 2] in their pixels, without reading the images.

        Args:
            rows: their positions.
            sizes: [N, 2], width and height of each.

        Raises:
            ValueError: landmarks were made for an image of another size.
        """
        for row, (width, height) in zip(rows, sizes.tolist(), strict=True):
            self._landmarks.check(row, self.names[row], width, height)
        return torch.from_numpy(self._landmarks.points[np.asarray(rows, np.int64)])

    def region(self, text: str) -> Region:
        """A region by its text, see :meth:`fastcam.regions.Region.parse`."""
        return Region.parse(text)
