"""What the paper says stands beside the networks that it is of."""

from __future__ import annotations

from fastcam.experiments.arms import BEFORE, CONTROL, table1_arms
from fastcam.experiments.measures import MEASURES
from fastcam.experiments.settings import CHEEKBONES, LIPSTICK, Pair
from fastcam.experiments.table1 import Table1


def _table(pair: Pair) -> Table1:
    arms = table1_arms(pair)
    numbers = dict.fromkeys(MEASURES, 0.5)
    measured = {name: [numbers] for name in (BEFORE, *(arm.name for arm in arms))}
    counts = [{"all": 4, "E1": 1, "E2": 1, "not a": 2}]
    return Table1((pair,), {pair.slug: measured}, {pair.slug: arms}, {pair.slug: counts})


def test_figures_of_table_1_and_of_section_3() -> None:
    networks = _table(LIPSTICK).tables()[0]
    head = "Yang et al., with their weights, not balanced: test, E1, E2, sunglasses"
    assert networks.header[-1] == head
    beside = {row[0]: row[-1] for row in networks.rows}
    assert beside[BEFORE] == "92.90, 98.06, 82.17, 83.53"
    assert beside["iou"] == beside["iou, w_g 5"] == "93.25, 98.31, 83.31, 86.61"
    assert beside["center"] == "93.26, 98.29, 83.23, –"
    assert (beside["N_o"], beside["N_w"]) == ("56.88, –, –, –", "93.14, –, –, –")
    assert beside[CONTROL] == beside["energy"] == "–"
    kept = _table(LIPSTICK).to_json()["pairs"][LIPSTICK.slug]["quoted from Yang et al."]
    assert kept["iou, w_g 5"]["sunglasses"] == 86.61 and kept["N_o"] == {"test": 56.88}


def test_other_pairs_have_no_more_than_their_table() -> None:
    networks = _table(CHEEKBONES).tables()[0]
    assert networks.header[-1].endswith(": test, E1, E2")
    beside = {row[0]: row[-1] for row in networks.rows}
    assert beside["iou, w_g 4"] == beside["iou"] == "65.56, 71.42, 61.33"
    assert beside["N_o"] == "–"
    own = Pair("red", "frame", "square", "frame", 5.0, {})
    assert _table(own).tables()[0].header == ["network", *MEASURES]
