"""Numbers as text."""

from __future__ import annotations

import math

from fastcam.report.numbers import number, percent, points, points_range


def test_shares_numbers_and_differences() -> None:
    assert [percent(0.9876), percent(0.9876, 2), percent(0.5, unit=" %")] == [
        "98.8%", "98.76%", "50.0 %",
    ]  # fmt: skip
    assert [number(0.12345), number(-1, 1), number(1, 2, sign=True)] == ["0.123", "-1.0", "+1.00"]
    for undefined in (None, math.nan):
        assert [percent(undefined), number(undefined), percent(undefined, missing="none")] == [
            "–", "–", "none",
        ]  # fmt: skip
    assert [points(0.01234), points(-0.5, 1)] == ["+1.23", "-50.0"]
    assert points_range(0, 0.02) == "+0.00 to +2.00"


def test_what_rounds_to_zero_has_no_sign_of_its_own() -> None:
    assert percent(-1e-5) == "0.0%" and number(-1e-9) == "0.000"
    assert points(-1e-9) == "+0.00" and number(-0.0, sign=True) == "+0.000"
