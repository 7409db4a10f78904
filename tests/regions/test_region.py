"""Choices of regions: text, rectangles, grids."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcam.regions import (
    REGION_NAMES,
    Region,
    flip_landmarks,
    grids,
    rectangles,
    template_landmarks,
)

SIZE = (218, 178)


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("mouth", Region(("mouth",))),
        ("right_eye, left_eye", Region(("left_eye", "right_eye"))),
        ("mouth,mouth", Region(("mouth",))),
        ("0.3,0.6,0.7,0.8", Region(boxes=((0.3, 0.6, 0.7, 0.8),))),
        ("0.3,0.6,0.7,0.8,0.3,0.6,0.7,0.8", Region(boxes=((0.3, 0.6, 0.7, 0.8),))),
        ("mouth, .1,.2,.5,.4, chin", Region(("mouth", "chin"), ((0.1, 0.2, 0.5, 0.4),))),
        ("0,0,1,1,0.5,0,1,1e0", Region(boxes=((0, 0, 1, 1), (0.5, 0, 1, 1)))),
    ],
)
def test_parse(text, region):
    assert Region.parse(text) == region
    assert Region.parse(str(region)) == region
    assert hash(Region.parse(text)) == hash(region)


unit = st.floats(0, 1)
boxes = st.lists(
    st.tuples(unit, unit, unit, unit)
    .map(lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])))
    .filter(lambda b: b[2] - b[0] > 1e-5 and b[3] - b[1] > 1e-5),
    max_size=3,
)


@given(names=st.lists(st.sampled_from(REGION_NAMES), max_size=4), drawn=boxes)
def test_text_round_trips(names, drawn):
    if names or drawn:
        region = Region(tuple(names), tuple(drawn))
        assert Region.parse(str(region)) == region
        assert region.flipped().flipped() == region


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "region has no part called ''"),
        (
            "mouht",
            r"no part called 'mouht' \(did you mean 'mouth'\?\); expected some of forehead, ",
        ),
        ("eyes", "no part called 'eyes'"),
        ("mouth,", "no part called ''"),
        ("0.1,0.2,0.3", "needs four numbers x0,y0,x1,y1"),
        ("0.1,0.2,mouth,0.3,0.4", "needs four numbers"),
        ("0.7,0.6,0.3,0.8", "0 <= x0 < x1 <= 1 .* got 0.7,0.6,0.3,0.8"),
        ("53,131,125,174", "fractions of the template face"),
        ("0,0,nan,1", "boxes: expected rectangles"),
        ("0,0,1e-7,1", "boxes: expected rectangles"),
    ],
)
def test_parse_errors(text, message):
    with pytest.raises(ValueError, match=message):
        Region.parse(text)


def test_constructor_errors():
    with pytest.raises(ValueError, match="at least one of forehead"):
        Region()
    with pytest.raises(ValueError, match="names: expected a tuple"):
        Region("mouth")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"boxes: expected rectangles .* got \(1, 2\)"):
        Region(boxes=((1, 2),))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="region: expected text such as 'mouth', got int"):
        Region.parse(3)  # type: ignore[arg-type]


def test_grid_of_named_parts(faces):
    region = Region.parse("mouth,left_eye")
    rects = rectangles(faces)[:, [3, 8]]
    np.testing.assert_array_equal(region.rectangles(faces), rects)
    for mode in ("coverage", "binary"):
        got = region.grid(faces, SIZE, (13, 13), mode)
        assert got.shape == (16, 13, 13)
        np.testing.assert_array_equal(got, grids(rects, SIZE, (13, 13), mode))


def test_a_union_is_not_a_sum(faces):
    eye, brow = Region.parse("left_eye"), Region.parse("left_eyebrow")  # these overlap
    both = Region.parse("left_eye,left_eyebrow").grid(faces, SIZE, (9, 7))
    parts = [region.grid(faces, SIZE, (9, 7)) for region in (eye, brow)]
    assert (both >= np.maximum(*parts) - 1e-6).all()
    assert (both <= np.minimum(1, sum(parts)) + 1e-6).all()
    assert both.sum() < sum(parts).sum()


@pytest.mark.parametrize(
    "text", [*REGION_NAMES, "left_eye,mouth", "0.3,0.6,0.7,0.8", "0.1,0.5,0.5,0.6,nose"]
)
def test_flipping_the_face_flips_the_grid(faces, text):
    region = Region.parse(text)
    mirrored = region.flipped().grid(flip_landmarks(faces, SIZE[1]), SIZE, (13, 7))
    np.testing.assert_allclose(mirrored, region.grid(faces, SIZE, (13, 7))[..., ::-1], atol=1e-6)


@pytest.mark.parametrize("text", [*REGION_NAMES, "0.3,0.6,0.7,0.8"])
def test_resizing_the_image_keeps_the_grid(faces, text):
    region = Region.parse(text)
    resized = region.grid(faces * [224 / 178, 128 / 218], (128, 224), (13, 13))
    np.testing.assert_allclose(resized, region.grid(faces, SIZE, (13, 13)), atol=1e-6)


def test_undefined_faces_cover_nothing(faces):
    faces[0, 40] = np.nan
    faces[1] += 1000
    for text in ("mouth", "0.3,0.6,0.7,0.8", "mouth,0.3,0.6,0.7,0.8"):
        got = Region.parse(text).grid(faces, SIZE, (7, 7))
        assert not got[:2].any()
        assert got[2:].any((1, 2)).all()
    assert Region.parse("mouth,0,0,1,1").grid(faces[:0], SIZE, (7, 7)).shape == (0, 7, 7)


# --- drawn rectangles -----------------------------------------------------------------------------


def carried(face, box):
    """Weighted least squares with np.linalg.lstsq: the slow, obvious way to carry a rectangle."""
    template = template_landmarks().astype(np.float64)
    low, high = np.array(box[:2]) * (178, 218), np.array(box[2:]) * (178, 218)
    gap = np.maximum(np.maximum(low - template, template - high), 0)
    height = template[48:60].mean(0)[1] - template[36:48].mean(0)[1]
    weight = 1 / ((gap**2).sum(1) + (0.25 * height) ** 2)
    root = np.sqrt(weight)[:, None]
    design = np.c_[template, np.ones(68)]
    affine = np.linalg.lstsq(design * root, face * root, rcond=None)[0]
    corners = np.array(
        [(x, y, 1.0) for x, y in itertools.product((low[0], high[0]), (low[1], high[1]))]
    )
    moved = corners @ affine
    return [*moved.min(0), *moved.max(0)]


@pytest.mark.parametrize(
    "box", [(0.3, 0.6, 0.7, 0.8), (0, 0, 1, 1), (0.49, 0.55, 0.5, 0.56), (0, 0, 0.1, 0.1)]
)
def test_drawn_rectangles_are_carried_by_a_local_affine_fit(faces, box):
    got = Region(boxes=(box,)).rectangles(faces)
    want = np.array([[carried(face, box)] for face in faces])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(drawn=boxes.filter(bool), angle=st.floats(-3, 3), scale=st.floats(0.2, 3))
def test_an_affine_move_of_the_template_carries_rectangles_exactly(drawn, angle, scale):
    turn = np.array([[scale * np.cos(angle), -0.7 * np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    face = template_landmarks().astype(np.float64) @ turn.T + (5, -3)
    got = Region(boxes=tuple(drawn)).rectangles(face[None])[0]
    for rect, (x0, y0, x1, y1) in zip(got, Region(boxes=tuple(drawn)).boxes, strict=True):
        corners = np.array(list(itertools.product((x0, x1), (y0, y1)))) * (178, 218) @ turn.T + (
            5,
            -3,
        )
        np.testing.assert_allclose(rect, [*corners.min(0), *corners.max(0)], atol=1e-2)


def test_a_drawn_rectangle_follows_the_part_it_was_drawn_on():
    region = Region(boxes=((67 / 178, 145 / 218, 111 / 178, 168 / 218),))  # around the mouth
    face = template_landmarks().astype(np.float64)
    moved = face.copy()
    moved[48:, 1] += 6
    shift = region.rectangles(moved[None]) - region.rectangles(face[None])
    assert (shift[0, 0, [1, 3]] > 3).all()
    assert (np.abs(shift[0, 0, [0, 2]]) < 1).all()


def test_drawn_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"landmarks: expected shape \[N, 68, 2\], got \[68, 2\]"):
        Region.parse("0,0,1,1").rectangles(np.zeros((68, 2)))


def test_a_batch_takes_milliseconds(faces):
    """256 images on a 13 x 13 grid; the bound is wide, as machines are busy."""
    batch = np.tile(faces, (16, 1, 1)).astype(np.float32)
    region = Region.parse("mouth,left_eye,right_eye,0.2,0.2,0.5,0.5")
    times = []
    for _ in range(7):
        start = time.thread_time()  # not what others take of the processor
        region.grid(batch, SIZE, (13, 13))
        times.append(time.thread_time() - start)
    assert min(times) < 0.01
