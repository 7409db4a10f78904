"""``python -m bench cpu`` and ``bench report``: targets, tables and plots, without measuring."""

from __future__ import annotations

import json
import sys

import pytest

from bench import __main__ as bench
from bench import cpu, speed_report
from bench.targets import ATTEND, CAM, TARGETS, targets_table
from bench.timing import Turns, interleaved


def timing(seconds: float) -> dict[str, float]:
    return {"p20": 0.9 * seconds, "median": seconds, "p80": 1.1 * seconds, "runs": 9}


def timings(**seconds: float) -> dict[str, dict[str, float]]:
    return {name.replace("_", " "): timing(value) for name, value in seconds.items()}


def cam(batch: int, fused: float) -> dict:
    return {
        "name": CAM.replace("256", str(batch)),
        "family": "alexnet T=1 float32 contiguous",
        "batch": batch,
        "peaks": {"fused": [2**20, 2**21], "eager": [2**22, 2**23], "compiled": [0, 2**22]},
        "times": timings(fused=fused, eager=8.0, compiled=3.0, byte_limit=1.0),
    }


RECORDS = [
    *(cam(batch, 2.0) for batch in (1, 8, 256)),
    {
        "name": "maps of one attribute",
        "times": timings(fused=1.04, slow=3.0, quick=1.0),
        "peers": ["slow", "quick"],
        "missing": {"captum": "ModuleNotFoundError: No module named 'captum'"},
    },
]
ABOUT = {
    **{"processor": "A", "threads": 2, "cores": 4, "cpu_isa": "avx2", "torch": "2.14.1"},
    **{"date": "2026-01-02", "load": 0.1},
}


def test_targets_say_met_missed_and_by_how_much():
    rows = targets_table(RECORDS).splitlines()
    eager, compiled, limit = rows[2:5]
    assert eager.endswith("| ≥ 3 | 4 | met |")
    assert compiled.endswith("| ≥ 2 | 1.5 | **missed**: 25.0% too little |")
    assert limit.endswith("| ≤ 1.5 | 2 | **missed**: 33.3% too much |")
    assert rows[-2].endswith("| ≤ 1.05 | 1.04 | met |")  # against the fastest peer
    assert sum("not measured" in row for row in rows) == len(TARGETS) - 4
    assert {target.number for target in TARGETS} == {1, 2, 3, 4, 5}


def test_memory_is_a_target_of_attend():
    peaks = {"fused": [4, 9], "eager": [100, 900]}
    record = {"name": ATTEND, "times": timings(fused=1, eager=9, compiled=3), "peaks": peaks}
    rows = targets_table([record]).splitlines()
    assert rows[5].endswith("| ≥ 10 | 9 | **missed**: 10.0% too little |")
    assert rows[7].endswith("| ≤ 0.05 | 0.04 | met |")


def test_a_target_without_a_peer_is_not_met():
    alone = {"name": "maps of one attribute", "times": timings(fused=1.0), "peers": []}
    assert "met" not in targets_table([alone]).replace("not measured", "")


def test_names_of_the_targets_are_those_of_the_suite():
    pytest.importorskip("torchvision")
    from bench.suite import test_attend, test_cam_iou

    assert f"cam_iou {test_cam_iou.TARGET.name}" == CAM
    assert test_cam_iou.TARGET in test_cam_iou.CASES
    cases = [f"{op} {case.name}" for op, found in test_attend.CASES.items() for case in found]
    assert ATTEND in cases


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_benchmarks(option, capsys):
    assert bench.main([option]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said and what in said for name, what in bench.BENCHMARKS.items())
    with pytest.raises(SystemExit, match="0"):
        bench.main(["report", option])
    assert "usage: python -m bench report" in capsys.readouterr().out


def test_a_run_without_its_extra_says_which(tmp_path, monkeypatch, capsys):
    """`make bench` installs it; `make setup` does not."""
    monkeypatch.setitem(sys.modules, "pytest_benchmark", None)
    assert bench.main(["cpu", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'fastcam[bench]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_wrong_choice_chooses_nothing(capsys):
    pytest.importorskip("torchvision")
    assert len(cpu.chosen(["-k", "cam_iou and N8"]).together) == 4
    assert cpu.chosen(["-k", "cam_iou and N8 or maps of"]).parts() == []
    assert "Wrong expression passed to '-k'" in capsys.readouterr().err
    assert cpu.chosen(["-k", "nothing_of_this_name"]).parts() == []


def test_report_writes_tables_and_plots(tmp_path):
    (tmp_path / "cpu.json").write_text(json.dumps({"machine": ABOUT, "results": RECORDS}))
    assert bench.main(["report", "--results", str(tmp_path)]) == 0
    text = (tmp_path / "cpu.md").read_text()
    assert "**PEER LEFT OUT: captum (ModuleNotFoundError" in text
    assert "2e+03 (1.8e+03 to 2.2e+03) | 4.00 | 1.50 | 2.00 | 1, 4, 0 | 2, 8, 4 |" in text
    assert "| maps of one attribute | slow | 3e+03 (2.7e+03 to 3.3e+03) | 2.885 | 9 |" in text
    plots = sorted(path.name for path in tmp_path.glob("*.png"))
    assert plots == ["limit.png", "memory.png", "speedup.png"]
    assert all(path.stat().st_size < 200_000 for path in tmp_path.glob("*.png"))
    section = speed_report.docs_section(ABOUT, RECORDS)
    assert section.startswith("A, 2 of 4 cores, avx2, float32, torch 2.14.1, 2026-01-02, load 0.1")


def test_candidates_take_turns():
    order: list[str] = []
    clock = iter(range(1000)).__next__
    turns = Turns({name: lambda name=name: order.append(name) for name in "ab"}, clock)
    turns.turn()
    turns.turn()
    assert "".join(order) == "abab" and turns.seconds == {"a": [1, 1], "b": [1, 1]}
    turns.forget()
    assert turns.seconds == {"a": [], "b": []}


def test_interleaved_reads_the_clock_it_is_given():
    times = interleaved({"a": list}, seconds=0, least=3, clock=iter(range(1000)).__next__)
    assert times["a"].median == 1 and times["a"].runs == 3
