"""Where a person points: regions, rectangles and painted squares, and the text that says it."""

from __future__ import annotations

import numpy as np
import pytest

from fastcam.regions import Region, template_landmarks
from fastcam.studio.pointing import PAINT, Pointing, brush, rectangles_of


def test_a_region_is_chosen_and_let_go_and_never_both_wanted_and_not() -> None:
    pointing = Pointing().toggle("mouth").toggle("chin")
    assert pointing.text == "mouth,chin"
    assert pointing.toggle("mouth").text == "chin"
    away = pointing.toggle("mouth", away=True)
    assert away.names == ("chin",) and away.avoid_text == "mouth"
    assert away.toggle("mouth").avoid == ()


def test_a_rectangle_is_cut_to_the_face_and_its_corners_come_in_any_order() -> None:
    assert Pointing().add_box((0.9, 0.5, 0.2, -1)).text == "0.2,0,0.9,0.5"
    with pytest.raises(ValueError, match="boxes"):
        Pointing().add_box((0.2, 0.3, 0.2, 0.9))


def test_painted_squares_become_rectangles_that_cover_just_them() -> None:
    columns, rows = PAINT
    painted = Pointing().paint(brush(0.5, 0.5, 3)).paint([0, 1, columns, rows * columns - 1, 10**6])
    covered = np.zeros((rows, columns))
    boxes = rectangles_of(painted.painted)
    for x0, y0, x1, y1 in boxes:
        part = np.zeros_like(covered)
        part[round(y0 * rows) : round(y1 * rows), round(x0 * columns) : round(x1 * columns)] = 1
        assert not (covered * part).any()  # none twice
        covered += part
    assert set(np.flatnonzero(covered.ravel())) == set(painted.painted)
    assert len(boxes) < len(painted.painted)
    # What the library reads covers the same part of the template.
    size = (218, 178)
    grid = Region.parse(painted.text).grid(template_landmarks()[None], size, (rows, columns))[0]
    assert np.abs(grid - covered).max() < 0.03


def test_erasing_and_json() -> None:
    pointing = Pointing().paint([5, 6, 7]).paint([6], erase=True).add_box((0, 0, 0.5, 0.5))
    assert pointing.painted == (5, 7)
    again = Pointing.from_json(pointing.toggle("nose", away=True).to_json())
    assert again == pointing.toggle("nose", away=True)
    assert Pointing().empty and not pointing.empty
