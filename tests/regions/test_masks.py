"""Masks become grids by exact area."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from fastcam.regions import MaskRegion, from_masks, grids


def _by_hand(mask: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Each cell's covered share, pixel by pixel in fractions."""
    height, width = mask.shape
    found = np.zeros((rows, cols))
    for i in range(rows):
        for j in range(cols):
            covered = Fraction(0)
            for y, x in zip(*np.nonzero(mask), strict=True):
                tall = min(Fraction(height * (i + 1), rows), y + 1) - max(
                    Fraction(height * i, rows), int(y)
                )
                wide = min(Fraction(width * (j + 1), cols), x + 1) - max(
                    Fraction(width * j, cols), int(x)
                )
                if tall > 0 and wide > 0:
                    covered += tall * wide
            found[i, j] = float(covered * rows * cols / (height * width))
    return found


@given(
    st.integers(1, 7), st.integers(1, 7), st.integers(1, 5), st.integers(1, 5), st.integers(0, 9)
)
def test_equals_areas_worked_out_pixel_by_pixel(
    height: int, width: int, rows: int, cols: int, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    found = from_masks(mask[None], (rows, cols))
    np.testing.assert_allclose(found[0], _by_hand(mask, rows, cols), atol=1e-6)


@given(st.integers(1, 400), st.integers(1, 40), st.integers(0, 399))
@example(178, 22, 89)
def test_a_binary_grid_marks_the_cells_of_one_row_and_no_neighbour(
    height: int, cells: int, row: int
) -> None:
    row %= height
    masks = np.zeros((1, 1, height, 1), np.uint8)
    masks[0, 0, row] = 255
    region = MaskRegion(("a",), (0,))
    found = region.grid(masks, (height, 1), (cells, 1), "binary")
    first, last = row * cells // height, -(-(row + 1) * cells // height)
    assert np.flatnonzero(found).tolist() == [*range(first, last)]
    tensors = region.grid(torch.from_numpy(masks), (height, 1), (cells, 1), "binary")
    assert tensors.dtype == torch.float32 and tensors.tolist() == found.tolist()


def test_binary_grids_of_masks_and_rectangles_are_one() -> None:
    masks = np.zeros((1, 1, 178, 178), np.uint8)
    masks[0, 0, 89, :40] = 255
    region = MaskRegion(("a",), (0,))
    found = region.grid(masks, (178, 178), (22, 22), "binary")
    assert np.flatnonzero(found[0].any(1)).tolist() == [11]
    drawn = grids(np.array([[[0.0, 89, 40, 90]]]), (178, 178), (22, 22), "binary")
    assert found.tolist() == drawn.tolist()
    # A pixel of 1/255 is less than a millionth of a cell of 178².
    masks[:] = 0
    masks[0, 0, 0, 0] = 1
    assert not region.grid(masks, (178, 178), (1, 1), "binary").any()
    assert region.grid(masks, (178, 178), (1, 1)).all()


def test_several_masks_are_one_region() -> None:
    known = ("wing", "wing,left", "left", "tail")
    region = MaskRegion.parse("tail, wing,left,tail", known)
    assert (region.names, region.channels) == (("tail", "wing,left"), (3, 1))
    drawn = np.random.default_rng(0).random((2, 4, 9, 7)) > 0.7
    masks = drawn.astype(np.uint8) * np.uint8(255)
    wanted = from_masks(drawn[:, [3, 1]].any(1), (4, 3))
    np.testing.assert_array_equal(region.grid(masks, (9, 7), (4, 3)), wanted)
    tensors = region.grid(torch.from_numpy(masks), (9, 7), (4, 3))
    assert torch.equal(tensors, from_masks(torch.from_numpy(drawn[:, [3, 1]].any(1)), (4, 3)))


def test_what_resizing_leaves_beyond_counts_as_0_or_1() -> None:
    assert from_masks(np.array([[[1.0009, 0.0]]]), 1).tolist() == [[[0.5]]]
    assert from_masks(torch.tensor([[[-0.0009, 1.0]]]), 1).tolist() == [[[0.5]]]


def test_equals_the_grid_of_a_rectangle() -> None:
    mask = np.zeros((2, 50, 60), bool)
    mask[0, 10:30, 5:47] = True
    wanted = grids(np.array([[[5.0, 10, 47, 30]], [[0, 0, 0, 0]]]), (50, 60), (13, 13))
    np.testing.assert_allclose(from_masks(mask, 13), wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float64, torch.float16])
def test_tensors_as_arrays(dtype: torch.dtype) -> None:
    masks = torch.rand(2, 3, 32, 40).round().to(dtype)
    found = from_masks(masks, (7, 5))
    assert found.dtype == torch.float32 and found.shape == (2, 3, 7, 5)
    wanted = from_masks(masks.double().numpy(), (7, 5))
    assert isinstance(wanted, np.ndarray) and wanted.dtype == np.float32
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shares_are_as_exact_under_autocast(dtype: torch.dtype) -> None:
    masks = torch.rand(2, 1, 40, 40)
    region = MaskRegion(("wing",), (0,))
    wanted, drawn = from_masks(masks, 7), (255 * masks).byte()
    whole = region.grid(drawn, (40, 40), (7, 7))
    with torch.autocast("cpu", dtype):
        found = from_masks(masks, 7), region.grid(drawn, (40, 40), (7, 7))
    assert found[0].dtype == torch.float32 and torch.equal(found[0], wanted)
    assert found[1].dtype == torch.float32 and torch.equal(found[1], whole)


def test_area_is_kept_and_full_is_one() -> None:
    masks = torch.rand(4, 1, 224, 224)
    found = from_masks(masks, 13)
    torch.testing.assert_close(found.mean((2, 3)), masks.mean((2, 3)))
    assert torch.equal(from_masks(torch.ones(1, 17, 19), 5).round(decimals=5), torch.ones(1, 5, 5))


def test_what_resizing_leaves_beyond_0_and_1() -> None:
    """As the losses take it: torch's antialiased resize makes 1.0000002 of ones."""
    ones = torch.ones(2, 1, 300, 260)
    masks = nn.functional.interpolate(ones, (224, 224), mode="bilinear", antialias=True) + 1e-6
    assert masks.max() > 1
    for size in (13, 224):
        assert (from_masks(masks, size) <= 1).all() and (from_masks(masks.numpy(), size) <= 1).all()
    assert (from_masks(torch.full((1, 4, 4), -1e-7), 2) == 0).all()
    with pytest.raises(ValueError, match="got 0 to 1.08"):  # a bicubic one
        from_masks(torch.tensor([[[0.0, 1.08]]]), 1)


def test_no_images_and_strides() -> None:
    assert from_masks(torch.zeros(0, 8, 8), 4).shape == (0, 4, 4)
    shape_alone = from_masks(torch.zeros(2, 3, 8, 8, device="meta"), 3)
    assert shape_alone.is_meta and shape_alone.shape == (2, 3, 3, 3)
    masks = torch.rand(3, 20, 30)
    torch.testing.assert_close(from_masks(masks.mT, 4), from_masks(masks.mT.contiguous(), 4))


@pytest.mark.parametrize(
    ("masks", "size", "error", "words"),
    [
        (torch.full((1, 4, 4), 255), 2, ValueError, r"values in \[0, 1\], got 255 to 255.*label"),
        (torch.full((1, 4, 4), float("nan")), 2, ValueError, "got nan"),
        (torch.zeros(4, 4), 2, ValueError, r"\[N,h,w\] or \[N,T,h,w\].*got \[4, 4\]"),
        (torch.zeros(1, 0, 4), 2, ValueError, r"got \[1, 0, 4\]"),
        ([[1, 0]], 2, TypeError, "masks: expected a torch.Tensor or a numpy array.*list"),
        (np.array([["a"]]), 2, TypeError, "masks: .*<U1"),
        (torch.zeros(1, 4, 4), 0, ValueError, "size: expected H, W >= 1, got 0"),
        (torch.zeros(1, 4, 4), (2.0, 2), TypeError, "size: expected a whole number or two"),
        (torch.zeros(1, 4, 4), (2, 2, 2), TypeError, "size: "),
    ],
)
def test_wrong_arguments_are_named(
    masks: object, size: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        from_masks(masks, size)  # type: ignore[type-var, arg-type]
