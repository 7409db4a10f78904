"""The demo of the attention network at a tiny size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from small_subject import OPTIONS

from fastcam import analysis
from fastcam.demos.attention import STAGES, AttentionDemoConfig, _robustness, attention_demo, clear

DEMO = AttentionDemoConfig(
    images=40, size=32, epochs=1, batch_size=14, model_options=OPTIONS, pairs=((2.0, 0.5),),
    sigmas=(0.0, 0.5), ablation_images=8, ablation_epochs=1, ablation_seeds=1,
)  # fmt: skip


def test_the_demo_writes_one_page_and_keeps_its_stages(tmp_path: Path) -> None:
    said: list[str] = []
    result = attention_demo(tmp_path, DEMO, workers=1, say=said.append)
    assert list(result.analyses) == list(STAGES)
    page = result.page.read_text()
    assert page.count("data:image/png;base64,") == len(STAGES)
    for saved in result.analyses.values():
        assert all(table.to_html() in page for table in saved.tables)
    assert "Validation images choose n = " in page
    assert [f"analysing: {s}" in "".join(said) for s in STAGES] == [True] * len(STAGES)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.json")}
    said.clear()
    again = attention_demo(tmp_path, DEMO, workers=1, say=said.append)
    assert again.analyses == result.analyses
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert "analysing" not in "".join(said)
    with pytest.raises(ValueError, match="other"):
        attention_demo(tmp_path, dataclasses.replace(DEMO, epochs=2), say=said.append)
    (tmp_path / "notes.txt").write_text("mine")
    clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_too_few_images_are_told_before_anything_is_done(tmp_path: Path) -> None:
    """It was said after the training, by the analysis of the masks."""
    with pytest.raises(
        ValueError, match=r"^images: expected more than 12: of the 2 test .* Blond_Hair"
    ):
        attention_demo(tmp_path / "out", dataclasses.replace(DEMO, images=12))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("n", "noisy", "sentences"),
    [(2.0, 0.85, []), (0.5, 0.85, ["n below 1 draws"]), (2.0, 0.7, ["At σ = 0.5 the trained"])],
)
def test_the_page_says_what_a_pick_means(
    n: float, noisy: float, sentences: list[str], tmp_path: Path
) -> None:
    values = {
        "sigmas": [0.0, 0.5],
        "majority": 0.8,
        "pairs": [{"n": 1.0, "beta": 0.0, "accuracy": [0.9, noisy]}],
        "search": {"pair": [n, 0.0], "mean_difference": 0.01, "mean_interval": [0.005, 0.02]},
    }
    text = " ".join(_robustness(analysis.Saved(tmp_path, [], {}, values)))
    assert f"Validation images choose n = {n:g}, β = 0" in text
    assert "changes accuracy by +1.00 points (95% interval +0.50 to +2.00" in text
    possible = ("n below 1 draws", "At σ = 0.5 the trained")
    assert [s for s in possible if s in text] == sentences
