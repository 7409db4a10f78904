"""Landmarks -> the ten rectangles."""

from __future__ import annotations

import numpy as np
import pytest

from fastcam.regions import REGION_NAMES, flip_landmarks, rectangles, template_landmarks

# Which points each rectangle must hold; by dlib's numbering.
HOLDS = {
    "left_eyebrow": range(17, 22),
    "right_eyebrow": range(22, 27),
    "left_eye": range(36, 42),
    "right_eye": range(42, 48),
    "nose": range(27, 36),
    "mouth": range(48, 68),
    "chin": range(7, 10),
}
SWAPPED = [0, 2, 1, 4, 3, 5, 7, 6, 8, 9]  # each name's place on the mirrored face


def box(rects, name):
    return rects[..., REGION_NAMES.index(name), :]


@pytest.mark.parametrize("name", HOLDS)
def test_a_part_holds_its_points(faces, name):
    rects = box(rectangles(faces), name)
    points = faces[:, list(HOLDS[name])]
    assert (points >= rects[:, None, :2]).all()
    assert (points <= rects[:, None, 2:]).all()


def expected(points):
    """The docstring of rectangles(), word for word, for one face."""
    left_eye, right_eye = points[36:42].mean(0), points[42:48].mean(0)
    mouth_centre = points[48:60].mean(0)
    up = (left_eye + right_eye) / 2 - mouth_centre
    ux, uy = abs(right_eye[0] - left_eye[0]), abs(up[1])

    def around(first, last, mx=0.0, my=0.0):
        low, high = points[first : last + 1].min(0), points[first : last + 1].max(0)
        return [low[0] - mx * ux, low[1] - my * uy, high[0] + mx * ux, high[1] + my * uy]

    left_lid, right_lid = around(36, 41, 0.12, 0.12), around(42, 47, 0.12, 0.12)
    mouth = around(48, 59, 0.12, 0.10)
    nose = around(27, 35, 0.10, 0.05)
    nose[1] = points[27:36, 1].min()
    left_jaw, right_jaw = points[[2, 3], 0].mean(), points[[13, 14], 0].mean()
    chin = around(6, 10)
    brows = points[18:26]
    pushed = np.concatenate([brows + 0.2 * up, brows + 0.8 * up])
    return np.array(
        [
            [*pushed.min(0), *pushed.max(0)],
            around(17, 21, 0.08, 0.10),
            around(22, 26, 0.08, 0.10),
            left_lid,
            right_lid,
            nose,
            [left_jaw, left_lid[3], max(left_jaw, nose[0]), max(left_lid[3], mouth[1])],
            [min(right_jaw, nose[2]), right_lid[3], right_jaw, max(right_lid[3], mouth[1])],
            mouth,
            [chin[0], mouth[3], chin[2], max(mouth[3], chin[3] + 0.05 * uy)],
        ]
    )


def test_sides_are_those_of_the_documentation(faces):
    want = np.array([expected(face) for face in faces])
    np.testing.assert_allclose(rectangles(faces), want, rtol=1e-12, atol=1e-10)


def test_places_on_the_template():
    rects = rectangles(template_landmarks()[None])[0]
    assert (rects[:, :2] < rects[:, 2:]).all()
    above = [
        ("forehead", "left_eyebrow"),
        ("left_eye", "left_cheek"),
        ("nose", "mouth"),
        ("mouth", "chin"),
    ]
    for upper, lower in above:
        assert box(rects, upper)[3] <= box(rects, lower)[3]
        assert box(rects, upper)[3] <= box(rects, lower)[1] + 0.5
    for part in ("eyebrow", "eye", "cheek"):  # the viewer's left
        assert box(rects, f"left_{part}")[2] < box(rects, f"right_{part}")[0]
    np.testing.assert_allclose(box(rects, "mouth")[[0, 2]].mean(), 89, atol=0.01)


def test_a_flip_swaps_left_and_right(faces):
    mirrored = rectangles(flip_landmarks(faces, 178))
    want = rectangles(faces)[:, SWAPPED]
    want[..., [0, 2]] = 178 - want[..., [2, 0]]
    np.testing.assert_allclose(mirrored, want, rtol=0, atol=1e-9)


def test_they_move_with_any_resize_and_shift(faces):
    scale, shift = np.array([224 / 178, 0.4]), np.array([-7.0, 12.0])
    want = rectangles(faces) * np.tile(scale, 2) + np.tile(shift, 2)
    np.testing.assert_allclose(rectangles(faces * scale + shift), want, rtol=0, atol=1e-9)


def test_the_hidden_cheek_of_a_turned_head_is_empty():
    face = template_landmarks()[None].astype(np.float64)
    face[:, :5, 0] = 95  # the left jaw line behind the nose
    rects = rectangles(face)[0]
    assert box(rects, "left_cheek")[0] == box(rects, "left_cheek")[2]
    assert box(rects, "right_cheek")[0] < box(rects, "right_cheek")[2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_face_with_a_bad_point_is_nan_and_others_are_not(faces, bad):
    broken = faces[:3].copy()
    broken[1, 5, 0] = bad
    rects = rectangles(broken)
    assert np.isnan(rects[1]).all()
    np.testing.assert_array_equal(rects[[0, 2]], rectangles(faces[[0, 2]]))


def test_all_points_in_one_place_give_rectangles_without_area():
    rects = rectangles(np.full((1, 68, 2), 3.0))[0]
    assert (rects == 3.0).all()


def test_dtypes_and_layouts(faces):
    single = rectangles(faces.astype(np.float32))
    assert single.dtype == np.float32
    assert rectangles(faces).dtype == np.float64
    np.testing.assert_allclose(single, rectangles(faces), atol=1e-4)
    np.testing.assert_array_equal(rectangles(np.asfortranarray(faces)), rectangles(faces))
    np.testing.assert_array_equal(rectangles(faces[::2]), rectangles(faces)[::2])
    whole = faces.astype(np.int32)
    np.testing.assert_array_equal(rectangles(whole), rectangles(whole.astype(np.float64)))
    assert rectangles(np.zeros((0, 68, 2), np.float32)).shape == (0, 10, 4)


@pytest.mark.parametrize(
    ("landmarks", "error", "message"),
    [
        (np.zeros((68, 2)), ValueError, r"landmarks: expected shape \[N, 68, 2\], got \[68, 2\]"),
        (np.zeros((1, 5, 2)), ValueError, r"landmarks: .* got \[1, 5, 2\]"),
        (np.zeros((1, 68, 3)), ValueError, "landmarks"),
        (np.zeros((1, 68, 2), complex), TypeError, "landmarks: expected real numbers.*complex128"),
        (None, TypeError, "landmarks"),
        ("face", TypeError, "landmarks"),
    ],
)
def test_errors_name_the_argument(landmarks, error, message):
    with pytest.raises(error, match=message):
        rectangles(landmarks)
