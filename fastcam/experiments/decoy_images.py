"""Images with decoys: patches in the corners whose grey value tells the class.

After Ross, Hughes and Doshi-Velez, "Right for the right reasons" (2017), decoy MNIST. Here the
patches lie in a frame around the image, so that what tells the class truly is all inside.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from fastcam._util.extras import require

#: Where Debian's package dataset-fashion-mnist lies.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 10
#: Pixels: of the frame, and of a patch's side. Between a patch and the image are 4, so that no cell
#: of the network of :mod:`fastcam.experiments.decoy` inside the region sees any of a patch.
FRAME, PATCH = 8, 4
#: So many of the four corners have a patch, in each image other ones.
CORNERS = 2
#: The grey of class k is drawn from the middle of [k/10, (k+1)/10], this share of its width.
_SPREAD = 0.6
_TRAIN, _TEST = 2400, 1000


@dataclass(frozen=True)
class LabelledImages:
    """Images without decoys, and their classes.

    Attributes:
        name: of the data, for tables.
        train, test: float32 [N,1,H,H] in [0, 1].
        train_labels, test_labels: int64 [N], classes 0 to 9.
        epochs: how many passes over the training images a network needs.
    """

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    epochs: int


def labelled_images(folder: Path = FASHION_MNIST) -> LabelledImages:
    """The first 2,400 training and 1,000 test images of Fashion-MNIST; else scikit-learn's digits.

    Args:
        folder: holds Fashion-MNIST's four files; where they are not, digits are taken: 1,200 to
            train on and 597 to test on, their 8×8 pixels enlarged to 24×24.

    Raises:
        ValueError: a file is there and not what it should be.
        ImportError: digits are needed and scikit-learn is missing.
    """
    if (folder / "train-images-idx3-ubyte.gz").is_file():
        train, test = (
            (_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)[:count].unsqueeze(1).float() / 255,
             _idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)[:count].long())
            for part, count in (("train", _TRAIN), ("t10k", _TEST))
        )  # fmt: skip
        return LabelledImages("Fashion-MNIST", *train, *test, epochs=5)
    digits = require("sklearn.datasets", extra="experiments").load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    small = torch.from_numpy(digits.images).float().unsqueeze(1)[order] / 16
    images = nnf.interpolate(small, scale_factor=3, mode="bilinear")
    labels = torch.from_numpy(digits.target).long()[order]
    parts = (images[:1200], labels[:1200], images[1200:], labels[1200:])
    return LabelledImages("scikit-learn's digits", *parts, epochs=12)


def _idx(path: Path, dims: int) -> Tensor:
    """An IDX file of bytes."""
    with gzip.open(path) as file:
        data = file.read()
    start = 4 + 4 * dims
    shape = np.frombuffer(data[4:start], ">u4").tolist()
    if data[:4] != bytes([0, 0, 8, dims]) or len(data) - start != np.prod(shape, dtype=int):
        raise ValueError(f"{path}: expected an IDX file of bytes with {dims} dimensions")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def framed(images: Tensor) -> Tensor:
    """Images [N,1,H,H] in a black frame: [N,1,H+2·FRAME,H+2·FRAME]."""
    return nnf.pad(images, (FRAME,) * 4)


def inside(side: int) -> Tensor:
    """Where the image lies in its frame: float32 [side,side], 1 inside."""
    region = torch.zeros(side, side)
    region[FRAME:-FRAME, FRAME:-FRAME] = 1
    return region


def with_decoys(images: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Framed images with patches of the classes' grey in some corners.

    Args:
        images: [N,1,H,H].
        classes: int64 [N], what the patches tell.
        generator: draws corners and greys.

    Returns:
        [N,1,H+2·FRAME,H+2·FRAME].
    """
    out = framed(images)
    count, side = len(images), out.shape[-1]
    chosen = torch.rand(count, 4, generator=generator).argsort(1)[:, :CORNERS]
    jitter = _SPREAD * (torch.rand(count, generator=generator) - 0.5)
    grey = ((classes + 0.5 + jitter) / CLASSES)[:, None, None, None]
    for corner in range(4):
        rows, columns = (
            slice(0, PATCH) if first else slice(side - PATCH, side)
            for first in (corner < 2, corner % 2 == 0)
        )
        has = (chosen == corner).any(1)
        out[has, :, rows, columns] = grey[has]
    return out
