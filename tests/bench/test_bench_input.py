"""``python -m bench input``: on a few small images, and its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import input as bench_input
from bench.__main__ import main


def test_it_measures_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    monkeypatch.setattr(bench_input, "LARGE", 16)
    options = ["--faces", "12", "--batch", "4", "--seconds", "0", "--sizes", "64", "--large", "40"]
    try:
        assert main(["input", *options, "--work", str(work), "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    assert not any(work.iterdir())
    assert "unfinished" not in (out / "input.json").read_text()
    said = capsys.readouterr().out
    results = json.loads((out / "input.json").read_text())["results"]
    for row in results[:4]:
        assert row["case"] in said and 0 < row["p20"] <= row["median"] <= row["p80"]
    assert results[4]["bytes_on_disk"] >= 40 * 3 * 16**2
    assert "40 images of 16 px" in said


def test_a_run_that_is_ended_keeps_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_input, "large", ended)
    options = ["--faces", "12", "--batch", "4", "--seconds", "0", "--sizes", "64", "--large", "40"]
    try:
        with pytest.raises(KeyboardInterrupt):
            bench_input.main([*options, "--work", str(tmp_path), "--out", str(tmp_path / "out")])
    finally:
        torch.set_num_threads(threads)
    kept = json.loads((tmp_path / "out" / "input.json").read_text())
    assert len(kept["results"]) == 4 and "unfinished" in kept["machine"]
