"""What a loss of the map is told of every pair (image, target): regions, weights, which are on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastcam.ops import checks as check


@dataclass(frozen=True)
class PairCells:
    """Per-cell arguments of a loss, checked and in full shape (as views).

    regions: [N,T,H,W], bool or floating. cell_weights: [N,T,H,W] or None (all 1). where: bool [N,T]
    or None (all on).
    """

    regions: Tensor
    cell_weights: Tensor | None = None
    where: Tensor | None = None

    @classmethod
    def of(
        cls,
        regions: Tensor,
        cell_weights: Tensor | None,
        where: Tensor | None,
        activations: Tensor,
        pairs: Sequence[int],
    ) -> PairCells:
        """The arguments as :func:`fastcam.functional.cam_iou_loss` takes them.

        Args:
            activations: [N,C,H,W], whose cells they are of.
            pairs: (N, T).

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came.
        """
        full = check.regions(regions, activations, pairs)
        if cell_weights is not None:
            cell_weights = check.cell_weights(cell_weights, activations, pairs)
        if where is not None:
            where = check.where(where, activations, pairs)
        return cls(full, cell_weights, where)

    def to(self, dtype: torch.dtype) -> PairCells:
        """In the arithmetic dtype of a call."""
        if self.cell_weights is None and self.regions.dtype == dtype:
            return self
        weights = None if self.cell_weights is None else self.cell_weights.to(dtype)
        return PairCells(self.regions.to(dtype), weights, self.where)

    def check_values(self) -> None:
        """Look at the values, but for pairs that ``where`` switches off.

        Raises:
            ValueError: regions are not in [0, 1], or weights are negative or not finite; on a GPU
                the device asserts it.
        """
        check.values_of_regions(self.regions, self.where)
        if self.cell_weights is not None:
            check.values_of_cell_weights(self.cell_weights, self.where)

    def valid(self) -> Tensor:
        """Which pairs count: bool [N,T], on, with a region that is not empty after weighting."""
        double = self.regions.dtype == torch.float64
        cells = self.to(torch.float64 if double else torch.float32)
        total = cells.regions
        if cells.cell_weights is not None:
            total = total * cells.cell_weights
        valid = total.sum((-2, -1)) != 0
        return valid if self.where is None else valid & self.where
