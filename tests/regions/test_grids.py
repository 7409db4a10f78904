"""Rectangles -> grids, against exact rational arithmetic and random points."""

from __future__ import annotations

import itertools
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcam.regions import grids

nan, inf = float("nan"), float("inf")


def exact_grid(rects, height, width, rows, cols):
    """Covered share of each cell: cut the plane at every side, add up the covered pieces."""
    sides = [
        [Fraction(float(v)) for v in rect] for rect in rects if not any(np.isnan(v) for v in rect)
    ]
    xs = sorted(
        {Fraction(width) * c / cols for c in range(cols + 1)}
        | {r[i] for r in sides for i in (0, 2)}
    )
    ys = sorted(
        {Fraction(height) * c / rows for c in range(rows + 1)}
        | {r[i] for r in sides for i in (1, 3)}
    )
    out = np.zeros((rows, cols), dtype=object)
    for x0, x1 in itertools.pairwise(xs):
        for y0, y1 in itertools.pairwise(ys):
            if min(x0, y0) < 0 or x1 > width or y1 > height:
                continue
            if any(r[0] <= x0 and x1 <= r[2] and r[1] <= y0 and y1 <= r[3] for r in sides):
                out[int(y0 * rows / height), int(x0 * cols / width)] += (x1 - x0) * (y1 - y0)
    return out * rows * cols / (Fraction(width) * Fraction(height))


coordinate = st.floats(-40, 140, width=32)
any_rect = st.tuples(coordinate, coordinate, coordinate, coordinate)
shape = st.tuples(st.integers(1, 9), st.integers(1, 9))
size = st.tuples(st.integers(1, 100), st.integers(1, 100))


@settings(max_examples=150, deadline=None)
@given(rects=st.lists(any_rect, min_size=0, max_size=5), image=size, cells=shape)
def test_coverage_is_exact(rects, image, cells):
    got = grids(np.array(rects, np.float32).reshape(1, -1, 4), image, cells)
    want = exact_grid(rects, *image, *cells).astype(np.float64)
    assert got.dtype == np.float32
    assert got.shape == (1, *cells)
    np.testing.assert_allclose(got[0], want, rtol=0, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(rects=st.lists(any_rect, min_size=1, max_size=4), image=size, cells=shape)
def test_binary_marks_what_coverage_touches(rects, image, cells):
    rects = np.array([rects], np.float64)
    share = exact_grid(rects[0], *image, *cells).astype(np.float64)
    binary = grids(rects, image, cells, mode="binary")[0]
    clear = np.abs(share - 1e-6) > 1e-9
    np.testing.assert_array_equal(binary[clear], (share > 1e-6)[clear])


@settings(max_examples=50, deadline=None)
@given(rects=st.lists(any_rect, min_size=1, max_size=4), cells=shape)
def test_area_does_not_depend_on_the_grid(rects, cells):
    # Coverage times cell area adds up to the area of the union inside the image.
    rects = np.array([rects], np.float64)
    area = float(exact_grid(rects[0], 90, 70, 1, 1)[0, 0]) * 90 * 70
    cell = 90 * 70 / (cells[0] * cells[1])
    assert grids(rects, (90, 70), cells).sum(dtype=np.float64) * cell == pytest.approx(
        area, rel=1e-6, abs=1e-3
    )


def test_agrees_with_random_points():
    rng = np.random.default_rng(0)
    rects = np.array([[20, 30, 90, 80], [60, 50, 130, 110], [0, 100, 25, 218]], np.float64)
    points = rng.uniform(size=(400_000, 2)) * (178, 218)
    inside = np.zeros(len(points), bool)
    for x0, y0, x1, y1 in rects:
        inside |= ((points > (x0, y0)) & (points < (x1, y1))).all(1)
    cell = (points / (178, 218) * 7).astype(int)
    hits, total = np.zeros((7, 7)), np.zeros((7, 7))
    np.add.at(hits, (cell[:, 1], cell[:, 0]), inside)
    np.add.at(total, (cell[:, 1], cell[:, 0]), 1)
    got = grids(rects[None], (218, 178), (7, 7))[0]
    np.testing.assert_allclose(got, hits / total, atol=0.03)  # 5 sigma of 8,000 points a cell


def test_a_worked_example():
    # 4 x 2 pixels in a 2 x 2 grid: cells are 2 x 1. Two rectangles overlap in [1,2] x [0,1].
    rects = [[[0, 0, 2, 1], [1, 0, 3, 1.5]]]
    np.testing.assert_array_equal(grids(rects, (2, 4), (2, 2)), [[[1, 0.5], [0.25, 0.25]]])
    np.testing.assert_array_equal(grids(rects, (2, 4), (2, 2), "binary"), [[[1, 1], [1, 1]]])


@pytest.mark.parametrize("mode", ["coverage", "binary"])
@pytest.mark.parametrize(
    "rect",
    [
        (nan, 0, 5, 5),
        (0, 0, 5, nan),
        (5, 0, 1, 5),  # inverted
        (0, 5, 5, 1),
        (3, 0, 3, 9),  # no width
        (0, 3, 9, 3),  # no height
        (-9, -9, 0, 0),  # touches a corner from outside
        (10, 0, 20, 10),
        (0, -inf, 10, 0),
        (inf, 0, inf, 10),
    ],
)
def test_what_covers_nothing(rect, mode):
    assert not grids([[rect]], (10, 10), (3, 3), mode).any()
    # ... also beside a rectangle that does cover something
    both = grids([[rect, (0, 0, 5, 5)]], (10, 10), (3, 3), mode)
    np.testing.assert_array_equal(both, grids([[(0, 0, 5, 5)]], (10, 10), (3, 3), mode))


def test_infinite_sides_reach_the_border():
    np.testing.assert_array_equal(
        grids([[(-inf, -inf, inf, 5)]], (10, 10), (2, 2)), [[[1, 1], [0, 0]]]
    )


def test_sides_on_cell_borders_do_not_leak():
    # 224 px, 7 cells of 32 px.
    got = grids([[(32, 64, 96, 128)]], (224, 224), (7, 7), "binary")
    want = np.zeros((1, 7, 7))
    want[0, 2:4, 1:3] = 1
    np.testing.assert_array_equal(got, want)
    # A side that misses the border by rounding does not switch on the next cell.
    rect = np.array([[[0, 0, 89.00001, 218]]], np.float32)
    assert grids(rect, (218, 178), (2, 2), "binary").sum() == 2


@pytest.mark.parametrize("mode", ["coverage", "binary"])
def test_empty_batches_and_no_rectangles(mode):
    assert grids(np.zeros((0, 3, 4)), (10, 10), (2, 3), mode).shape == (0, 2, 3)
    assert not grids(np.zeros((2, 0, 4)), (10, 10), (2, 3), mode).any()


def test_layouts_and_dtypes_give_the_same():
    rng = np.random.default_rng(1)
    rects = rng.integers(0, 32, (6, 3, 4)).astype(np.float64)
    rects[..., 2:] += rects[..., :2]
    want = grids(rects, (64, 64), (5, 5))
    for other in (
        rects.astype(np.float32),
        rects.astype(np.float16),
        rects.astype(np.int64),
        np.asfortranarray(rects),
        np.repeat(rects, 2, axis=1)[:, ::2],
        rects[::-1][::-1],
        rects.astype(">f8"),
        rects.tolist(),
    ):
        np.testing.assert_array_equal(grids(other, (64, 64), (5, 5)), want)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"rects": np.zeros((2, 4))},
            ValueError,
            r"rects: expected shape \[N, R, 4\], got \[2, 4\]",
        ),
        ({"rects": np.zeros((1, 1, 5))}, ValueError, r"rects: .* got \[1, 1, 5\]"),
        (
            {"rects": np.zeros((1, 1, 4), complex)},
            TypeError,
            "rects: expected real numbers.*complex128",
        ),
        ({"rects": np.zeros((1, 1, 4), bool)}, TypeError, "rects: .* got bool"),
        ({"rects": [[["a", "b", "c", "d"]]]}, TypeError, "rects: expected real numbers"),
        ({"rects": [[[1, 2], [3]]]}, TypeError, "rects: expected an array"),
        (
            {"image_size": (0, 10)},
            ValueError,
            r"image_size\[0\] \(height\): expected above 0 and finite, got 0",
        ),
        ({"image_size": (10, nan)}, ValueError, r"image_size\[1\] \(width\).*nan"),
        ({"image_size": 10}, ValueError, r"image_size: expected \(height, width\), got 10"),
        ({"grid_size": (0, 3)}, ValueError, r"grid_size\[0\]"),
        ({"grid_size": (3, -1)}, ValueError, r"grid_size\[1\]"),
        ({"grid_size": (3, 3, 3)}, ValueError, "grid_size: expected"),
        ({"image_size": ("a", 3)}, TypeError, "image_size: expected two numbers"),
        ({"image_size": (1j, 3)}, TypeError, "image_size: expected two numbers"),
        ({"image_size": (None, 3)}, TypeError, "image_size: expected two numbers"),
        (
            {"image_size": (torch.zeros((), device="meta"), 3)},
            TypeError,
            "image_size: expected two numbers",
        ),
        ({"grid_size": (2**40, 3)}, ValueError, "grid_size: expected at most"),
        ({"grid_size": (3.5, 3)}, TypeError, "grid_size: expected two integers"),
        ({"mode": "soft"}, ValueError, "mode: expected .* got 'soft'"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {"rects": np.zeros((1, 1, 4)), "image_size": (10, 10), "grid_size": (3, 3)} | change
    with pytest.raises(error, match=message):
        grids(**arguments)


def test_the_gil_is_released():
    """While one thread is inside the module, another goes on.

    Threads change only where one lets go of the lock by itself, which the module does or does not:
    if not, the other never comes between, however often it is tried.
    """
    rects = np.tile(np.array([0.0, 0.0, 3000.0, 3000.0], np.float32), (4, 20, 1))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        for _ in range(200):
            order, entered = [], threading.Event()

            def work(order=order, entered=entered):
                entered.set()
                grids(rects, (3500, 3500), (600, 600))
                order.append("after the call")

            thread = threading.Thread(target=work)
            thread.start()
            entered.wait()
            order.append("another thread")
            thread.join()
            if order[0] == "another thread":
                return
    finally:
        sys.setswitchinterval(interval)
    pytest.fail("no other thread ran during 200 calls")
