"""The template face, five points, and mirroring."""

from __future__ import annotations

import numpy as np
import pytest

from fastcam.regions import (
    MIRROR_68,
    five_points,
    flip_landmarks,
    landmarks_from_five_points,
    template_landmarks,
)


def test_the_template_is_a_symmetric_aligned_face():
    face = template_landmarks()
    assert face.shape == (68, 2)
    assert face.dtype == np.float32
    left, right, nose, *corners = five_points(face[None])[0]
    np.testing.assert_allclose(left, (69, 111), atol=3)  # CelebA's alignment
    np.testing.assert_allclose(right, (108, 111), atol=3)
    assert left[0] < nose[0] < right[0]
    assert corners[0][0] < nose[0] < corners[1][0]
    np.testing.assert_allclose(flip_landmarks(face, 178), face, atol=1e-5)


def test_the_template_stretches_with_the_image():
    np.testing.assert_allclose(
        template_landmarks(224, 109), template_landmarks() * [224 / 178, 0.5], rtol=1e-6
    )
    template_landmarks()[:] = 0  # a copy each time
    assert template_landmarks().any()


def test_mirror_is_its_own_inverse():
    assert sorted(MIRROR_68) == list(range(68))
    np.testing.assert_array_equal(MIRROR_68[MIRROR_68], np.arange(68))
    # Corners of eyes and mouth, ends of jaw and brows, wings of the nose.
    for a, b in (
        (36, 45),
        (39, 42),
        (48, 54),
        (0, 16),
        (17, 26),
        (21, 22),
        (31, 35),
        (60, 64),
        (59, 55),
    ):
        assert MIRROR_68[a] == b
    for middle in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66):
        assert MIRROR_68[middle] == middle


def test_flip(faces):
    original = faces.copy()
    flipped = flip_landmarks(faces, 178)
    np.testing.assert_array_equal(faces, original)
    np.testing.assert_array_equal(flipped[:, 36, 0], 178 - faces[:, 45, 0])
    np.testing.assert_array_equal(flipped[:, 36, 1], faces[:, 45, 1])
    np.testing.assert_allclose(flip_landmarks(flipped, 178), faces, atol=1e-12)
    np.testing.assert_array_equal(flip_landmarks(faces[0], 178), flipped[0])
    assert flip_landmarks(faces.astype(np.float32), 178).dtype == np.float32
    assert flip_landmarks(faces.astype(int), 178).dtype == np.float32


def test_five_points_recover_any_similarity_of_the_template():
    rng = np.random.default_rng(0)
    template = template_landmarks().astype(np.float64)
    faces = []
    for _ in range(8):
        angle, scale = rng.uniform(-3, 3), rng.uniform(0.2, 4)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        faces.append(template @ turn.T + rng.uniform(-50, 50, 2))
    faces = np.array(faces)
    got = landmarks_from_five_points(five_points(faces))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, faces, atol=1e-2)


def test_five_points_fit_is_least_squares():
    rng = np.random.default_rng(1)
    target = five_points(template_landmarks()[None].astype(np.float64)) + rng.normal(
        0, 2, (1, 5, 2)
    )
    source = five_points(template_landmarks()[None].astype(np.float64))[0]
    # x' = a x - b y + c, y' = b x + a y + d: solved as a plain linear system.
    rows = [[[x, -y, 1, 0], [y, x, 0, 1]] for x, y in source]
    a, b, c, d = np.linalg.lstsq(np.array(rows).reshape(10, 4), target.ravel(), rcond=None)[0]
    face = template_landmarks().astype(np.float64)
    want = np.stack([a * face[:, 0] - b * face[:, 1] + c, b * face[:, 0] + a * face[:, 1] + d], 1)
    np.testing.assert_allclose(landmarks_from_five_points(target)[0], want, atol=1e-4)


def test_five_points_in_a_stretched_image():
    face = template_landmarks(300, 100)
    got = landmarks_from_five_points(five_points(face[None]), 300, 100)
    np.testing.assert_allclose(got[0], face, atol=1e-3)


def test_five_points_edge_cases():
    assert landmarks_from_five_points(np.zeros((0, 5, 2))).shape == (0, 68, 2)
    points = np.stack([five_points(template_landmarks()[None])[0], np.full((5, 2), 9.0)])
    np.testing.assert_allclose(landmarks_from_five_points(points)[1], 9.0)
    points[0, 2, 1] = np.nan
    got = landmarks_from_five_points(points)
    assert np.isnan(got[0]).all()
    assert np.isfinite(got[1]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: template_landmarks(0, 5), "width: expected a number above 0, got 0"),
        (lambda: template_landmarks(5, float("nan")), "height: expected a number above 0, got nan"),
        (
            lambda: landmarks_from_five_points(np.zeros((5, 2))),
            r"points: expected shape \[N, 5, 2\]",
        ),
        (lambda: five_points(np.zeros((1, 5, 2))), r"landmarks: expected shape \[N, 68, 2\]"),
        (lambda: flip_landmarks(np.zeros((3, 5, 2)), 9), r"landmarks: .* got \[3, 5, 2\]"),
        (lambda: flip_landmarks(np.zeros((1, 68, 2)), -1), "width: expected a .* above 0, got -1"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
