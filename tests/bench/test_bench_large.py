"""``python -m bench large``: on few small images, resumed, and what its table says of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import large
from bench.__main__ import main


def runs(**values: list[float]) -> list[dict]:
    return [
        {"batch": int(batch.strip("b").split("x")[0]), "passes": int(batch.partition("x")[2] or 5),
         "arm": arm, "seed": seed, "diverged": None, "steps": 9, "seconds": 1.0,
         "accuracy": value, "E2": value, "energy": None if seed else value}
        for arm in large.ARMS
        for batch, found in values.items()
        for seed, value in enumerate(found)
    ]  # fmt: skip


def test_a_difference_counts_where_it_is_wider_than_the_seeds() -> None:
    groups = large.grouped(runs(b8=[0.5, 0.6], b32x7=[0.7], b16=[0.6, 0.66], b32=[0.75, 0.75]))
    order = [(8, 5), (16, 5), (32, 5), (32, 7)]
    assert list(groups) == [(arm, *size) for arm in ("guided", "control") for size in order]
    small, middle, wide, longer = (groups["guided", *size] for size in order)
    assert large.apart(middle, small, "accuracy") == (pytest.approx(0.08), True)
    assert large.apart(wide, small, "accuracy") == (pytest.approx(0.2), False)
    text = large.table([r for group in groups.values() for r in group])
    assert large.apart(longer, small, "accuracy") == (pytest.approx(0.15), False)
    assert "| guided | 8 | 5 | 9 | 55.0 (50.0 to 60.0) |" in text
    assert "| guided | 32 | 7 | 9 | 70.0 (70.0 to 70.0), +15.0 **beyond seeds** |" in text
    assert "75.0 (75.0 to 75.0), +20.0 **beyond seeds**" in text and "none" in text
    lost = runs(b8=[0.5], b16=[0.6])
    lost[1]["diverged"] = "the loss became nan"
    assert "| guided | 16 | 5 | **1 diverged** |" in large.table(lost)


def test_a_folder_is_of_one_setup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large.same_setup(large.Setup(), tmp_path)
    large.same_setup(large.Setup(), tmp_path)
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit):
        main(["large", "--work", str(tmp_path), "--passes", "3", "--lr", "0.5"])
    torch.set_num_threads(threads)
    assert f"{tmp_path} has --passes 50, --lr 0.02" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_it_measures_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    work, out = tmp_path / "work", tmp_path / "out"
    options = [
        "--batches", "16", "32", "32x3", "--seeds", "1", "--images", "64", "--train", "32",
        "--valid", "8",
        "--size", "32", "--base-epochs", "1", "--passes", "2", "--part", "16",
        "--work", str(work), "--out", str(out),
    ]  # fmt: skip
    try:
        assert main(["large", *options]) == 0
        said = capsys.readouterr().out
        results = json.loads((out / "large.json").read_text())["results"]
        assert [r["steps"] for r in results[:6]] == [4, 2, 3, 4, 2, 3]
        assert [(r["batch"], r["part"]) for r in results[6:]] == [(16, 16), (32, 32), (32, 16)]
        assert all(r["peak"] > r["before"] for r in results[6:])
        assert (out / "large.png").stat().st_size > 10_000
        settings = json.loads((work / "seed0" / "guided-32" / "settings.json").read_text())
        assert (settings["lr_batch"], settings["warmup"]) == (16, 0.1)
        kept = [*work.rglob("found.json"), *work.rglob("model.pt"), *work.glob("memory-*.json")]
        times = {path: path.stat().st_mtime_ns for path in kept}
        assert len(times) == 6 + 7 + 3
        assert main(["large", *options]) == 0  # all is kept
        again = capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
    assert again == said
    assert {p: p.stat().st_mtime_ns for p in times} == times
