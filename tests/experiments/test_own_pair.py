"""Experiments on a pair of attributes of one's own, with masks in place of landmarks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_faces import MODEL
from tiny_masks import write_images

from fastcam.experiments import ExperimentConfig, run, table1
from fastcam.experiments.arms import BEFORE, CONTROL, Arm, control, cut_out, guided
from fastcam.experiments.settings import Pair, settings_of


def test_table1_and_figure7_of_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_images(tmp_path / "data", 64, masks="folders")
    config = ExperimentConfig(
        data=str(data), attribute="red", other="frame", region="square", elsewhere="frame",
        model=MODEL, size=32, fit="stretch", epochs=2, batch_size=16, lr=0.02, reliance_images=8,
        device="cpu",
    )  # fmt: skip

    def arms(pair: Pair) -> list[Arm]:
        return [control(), guided("energy"), cut_out(pair)]

    monkeypatch.setattr(table1, "table1_arms", arms)
    out = tmp_path / "out"
    run("table1", out, config, workers=1, say=lambda text: None)
    found = json.loads((out / "table1.json").read_text())["values"]["pairs"]["red-frame"]
    assert list(found["networks"]) == [BEFORE, CONTROL, "energy", "cut-out"]
    numbers = found["networks"][CONTROL][0]
    assert 0 <= numbers["region only"] <= 1
    assert numbers["sunglasses"] is None
    assert numbers["drop elsewhere"] is not None
    assert found["images"][0]["all"] == 16
    run("figure7", out, config, workers=1, say=lambda text: None)
    assert (out / "figure7.png").is_file()
    plain = dict.fromkeys(("attribute", "other", "region", "elsewhere"))
    with pytest.raises(ValueError, match=r"other settings \(attribute, elsewhere, other, region\)"):
        run("table1", out, replace(config, **plain), say=lambda text: None)
    with pytest.raises(ValueError, match="with a pair of your own: expected one of 'table1', 'f"):
        run("decoy", out, config, say=lambda text: None)
    with pytest.raises(ValueError, match="bias takes data in CelebA's layout"):
        run("bias", out, config, say=lambda text: None)


def test_a_pair_of_one_s_own_is_whole() -> None:
    with pytest.raises(ValueError, match="a pair of your own takes all four, and data"):
        ExperimentConfig(attribute="red", other="frame")
    assert "attribute" not in settings_of(ExperimentConfig())
