"""What data sets of images with labels have in common, whatever their regions are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Sample(TypedDict, total=False):
    """One image, and what its regions are drawn from: landmarks (faces) or masks (other data).

    image: uint8 [3, H, W].
    labels: float32 [K], 0 or 1.
    landmarks: float32 [68, 2], (x, y) in pixels of ``image``.
    masks: uint8 [R, H, W], 255 where a mask covers a pixel.
    index: position in the dataset.
    """

    image: Tensor
    labels: Tensor
    landmarks: Tensor
    masks: Tensor
    index: int


class AnyRegion(Protocol):
    """A region of a data set: :class:`fastcam.regions.Region`, or
    :class:`fastcam.regions.MaskRegion`."""

    def grid(
        self,
        places: NDArray[Any],
        image_size: tuple[float, float],
        grid_size: tuple[int, int],
        mode: Literal["coverage", "binary"] = "coverage",
    ) -> NDArray[np.float32]:
        """float32 [N, H, W] from N images' landmarks or masks."""
        ...


class Images(Protocol):
    """A split of a data folder: what :func:`fastcam.data.open_folder` finds there.

    attributes: K names; with ``exclusive`` they are classes, of which each image has one.
    names: the images, N of them.
    labels: float32 [N, K], 0 or 1.
    """

    attributes: list[str]
    names: list[str]
    labels: Tensor
    exclusive: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def region(self, text: str) -> AnyRegion:
        """A region by its text; ValueError for one that the data do not have."""
        ...


class Subsets(NamedTuple):
    """Dataset indices (int64): images with a and b, with a and not b, without a (Yang et al.)."""

    both: Tensor
    only_a: Tensor
    not_a: Tensor


def attribute_index(attributes: Sequence[str], name: str, of: str = "this data has") -> int:
    """Position of an attribute.

    Args:
        attributes: all of them.
        name: the one that is meant.
        of: whose they are, for the error: ``"model.pt judges"``.

    Raises:
        ValueError: there is none of that name; the message lists the names.
    """
    try:
        return list(attributes).index(name)
    except ValueError:
        raise ValueError(f"unknown attribute {name!r}; {of}: {', '.join(attributes)}") from None


def attribute_pair(
    attributes: Sequence[str], a: str, b: str, of: str = "this data has"
) -> tuple[int, int]:
    """Positions of two attributes, a and what misleads about it; see :func:`attribute_index`.

    Raises:
        ValueError: there is none of a name, or both names are one.
    """
    if a == b:
        raise ValueError(f"expected an attribute and another one, got {a!r} twice")
    return attribute_index(attributes, a, of), attribute_index(attributes, b, of)


def attribute_subsets(labels: Tensor, a: int, b: int) -> Subsets:
    """Indices of a∩b, a∩¬b and ¬a from ``labels`` [N, K] (positive above 0.5)."""
    has_a, has_b = labels[:, a] > 0.5, labels[:, b] > 0.5
    masks = (has_a & has_b, has_a & ~has_b, ~has_a)
    return Subsets(*(mask.nonzero().squeeze(1) for mask in masks))


class Labelled:
    """What images with labels are asked by the names of their attributes.

    Attributes:
        attributes: K names.
        labels: float32 [N, K], 0 or 1.
    """

    attributes: list[str]
    labels: Tensor

    def attribute(self, name: str) -> int:
        """Position of an attribute; ValueError for an unknown name."""
        return attribute_index(self.attributes, name)

    def subset(self, a: str, b: str) -> Subsets:
        """Indices of a∩b, a∩¬b and ¬a among these images, for two attribute names (E1 and E2 of
        Yang et al.).

        Raises:
            ValueError: an unknown attribute, or one attribute twice.
        """
        return attribute_subsets(self.labels, *attribute_pair(self.attributes, a, b))
