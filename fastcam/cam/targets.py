"""Which scores are supervised: the forms that ``targets`` may take, brought to one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastcam.ops import checks as check

__all__ = ["Targets", "TargetsLike", "resolve", "resolve_with_regions"]

#: What a user may name scores by: see :class:`fastcam.IoUCamLoss`.
TargetsLike = int | Sequence[int] | Sequence[Sequence[int]] | np.ndarray | Tensor | None

_KEPT = 64  # indices; more of them are likely to differ from step to step
_INDEX_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Targets:
    """T columns of the logits for each image.

    given: int64 [1,T], the same for all images, or [N,T], on the logits' device; or one column.
    """

    given: Tensor | int
    device: torch.device

    @property
    def index(self) -> Tensor:
        """int64 [1,T] or [N,T]."""
        if isinstance(self.given, int):
            return torch.full((1, 1), self.given, dtype=torch.int64, device=self.device)
        return self.given

    @property
    def count(self) -> int:
        """T."""
        return 1 if isinstance(self.given, int) else self.given.shape[1]

    @property
    def by_image(self) -> bool:
        """Whether images have targets of their own."""
        return not isinstance(self.given, int) and len(self.given) > 1

    def of_images(self, logits: Tensor) -> Tensor:
        """int64 [N,T]."""
        return self.index.expand(len(logits), -1)

    def one_hot(self, logits: Tensor) -> Tensor:
        """[T,N,K]: for each target the gradient of Σ_n score[n,t] with respect to the logits."""
        batch, classes = logits.shape
        hot = torch.zeros(self.count, batch, classes, dtype=logits.dtype, device=logits.device)
        if isinstance(self.given, int):
            hot[..., self.given] = 1
            return hot
        return hot.scatter_(2, self.given.expand(batch, -1).t().unsqueeze(-1), 1)

    def flat(self, pairs: tuple[Tensor, ...] | None = None) -> Tensor | int:
        """The column, or columns [B·T] image by image; of the chosen (images, targets) alone."""
        index = self.given
        if isinstance(index, int):
            return index
        if pairs is not None and index.numel() > 1:
            index = index[pairs[0] if len(index) > 1 else 0, pairs[1]]
        return index.reshape(-1)


def resolve(targets: TargetsLike, logits: Tensor) -> Targets:
    """``targets`` without regions: None (all K), an int, [T] for all images, or [N,T].

    Raises:
        TypeError, ValueError: naming what was expected and what came.
    """
    batch = logits.shape[0]
    if targets is None:
        return Targets(_all(logits), logits.device)
    index = _index(targets)
    if isinstance(index, int):
        return Targets(_one(index, logits), logits.device)
    if index.dim() not in (1, 2) or (index.dim() == 2 and index.shape[0] != batch):
        raise ValueError(
            f"targets: expected an int, [T], or [{batch},T] (N of logits), got shape "
            f"{list(index.shape)}"
        )
    return Targets(torch.atleast_2d(_on_device(index, logits)), logits.device)


def resolve_with_regions(
    targets: TargetsLike, regions: Tensor, logits: Tensor
) -> tuple[Targets, Tensor]:
    """``targets`` beside ``regions``; the targets, and the regions as [N,T,H,W].

    An int, [N] and None (K = 1) go with [N,H,W]; an int (T = 1), [T] and None (T = K) with
    [N,T,H,W]; [N,T] with either, where [N,H,W] is the one region of all T targets of its image.

    Raises:
        TypeError, ValueError: naming what was expected and what came.
    """
    full = check.region_grid(regions)
    batch, classes = logits.shape
    if regions.shape[0] != batch:
        raise ValueError(
            f"regions: expected {batch} images (N of logits), got shape {list(regions.shape)}"
        )
    single = regions.dim() == 3
    given = full.shape[1]
    index = None if targets is None else _index(targets)

    if not isinstance(index, Tensor):  # None or an int
        count = classes if index is None else 1
        if given != count:
            what = "targets=None means all K" if index is None else "one target"
            raise ValueError(
                f"regions: expected shape [{batch},{count},H,W] ({what}), got {list(regions.shape)}"
            )
        columns = _all(logits) if index is None else _one(index, logits)
        return Targets(columns, logits.device), full

    if index.dim() == 1:
        expected = batch if single else given
        if index.shape[0] != expected:
            meaning = "one per image, as regions is [N,H,W]" if single else "T of regions [N,T,H,W]"
            each = not single and given == 1 and index.shape[0] == batch
            raise ValueError(
                f"targets: expected {expected} indices ({meaning}), got {index.shape[0]}"
                + ("; one per image is targets[:, None]" if each else "")
            )
        if single:
            index = index.unsqueeze(1)
    elif index.dim() == 2:
        if index.shape[0] != batch or not (single or index.shape[1] == given):
            wanted = f"[{batch},T]" if single else f"[{batch},{given}]"
            raise ValueError(
                f"targets: expected shape {wanted} for regions {list(regions.shape)}, "
                f"got {list(index.shape)}"
            )
        full = full.expand(-1, index.shape[1], -1, -1)
    else:
        raise ValueError(
            f"targets: expected an int, [N], [T] or [N,T], got shape {list(index.shape)}"
        )
    return Targets(torch.atleast_2d(_on_device(index, logits)), logits.device), full


def _index(targets: Any) -> int | Tensor:
    if isinstance(targets, (int, np.integer)) and not isinstance(targets, bool):
        return int(targets)
    if isinstance(targets, np.ndarray) or (
        isinstance(targets, Sequence) and not isinstance(targets, str)
    ):
        try:
            array = np.asarray(targets)
        except ValueError:
            raise ValueError("targets: expected rows of one length, got ragged ones") from None
        if array.size == 0:
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu":
            raise TypeError(f"targets: expected integer indices, got {array.dtype}")
        targets = torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
    if not isinstance(targets, Tensor):
        raise TypeError(
            "targets: expected None, an int, or a tensor or sequence of ints, "
            f"got {type(targets).__name__}"
        )
    check.dense("targets", targets)
    if targets.dtype not in _INDEX_DTYPES:
        raise TypeError(f"targets: expected integer indices, got {targets.dtype}")
    if targets.dim() == 0:
        if targets.is_meta:
            raise ValueError("targets: expected an index, got a meta tensor, which has no value")
        return int(targets)
    return targets


def _all(logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[1], device=logits.device).unsqueeze(0)


def _one(index: int, logits: Tensor) -> int:
    _in_range(index, index, logits.shape[1])
    return index


def _on_device(index: Tensor, logits: Tensor) -> Tensor:
    """int64 on the logits' device. Indices on a GPU are not looked at: that would wait for it."""
    if index.device.type == "cpu" and index.numel():
        classes, most = logits.shape[1], int(index.max())
        _in_range(int(index.min()), most, classes)
        if most <= 1 and index.dim() == 2 and index.shape[1] == classes > 2:
            warnings.warn(
                f"targets: {list(index.shape)} of 0 and 1 alone look like labels, and are taken as "
                "the indices of scores 0 and 1; give indices (None for all K), and the labels as "
                "where=labels > 0",
                stacklevel=6,  # of a module's call
            )
    elif index.device.type != "cpu" and index.device != logits.device:
        raise ValueError(
            f"targets: expected device {logits.device} (as logits) or cpu, got {index.device}"
        )
    if index.device.type == "cpu" and logits.device.type == "cuda" and index.numel() <= _KEPT:
        return _kept_on_device(tuple(index.flatten().tolist()), index.shape, logits.device)
    return index.to(device=logits.device, dtype=torch.int64, non_blocking=True)


@lru_cache(maxsize=256)
def _kept_on_device(indices: tuple[int, ...], shape: torch.Size, device: torch.device) -> Tensor:
    """Few indices are copied to a GPU once: a loop gives the same ones in every step, and a CUDA
    graph cannot be captured around a copy from pageable memory."""
    with torch.inference_mode(False):  # what is kept may be used in training, too
        return torch.tensor(indices, dtype=torch.int64).reshape(shape).to(device)


def _in_range(low: int, high: int, classes: int) -> None:
    if low < 0 or high >= classes:
        raise ValueError(
            f"targets: expected indices in [0, {classes - 1}] (K = {classes} columns of logits), "
            f"got {low if low < 0 else high}"
        )
