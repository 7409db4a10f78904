"""Experiments from drawn faces to tables, with a tiny network; again, and stopped."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from tiny_faces import MODEL, write_faces

from fastcam import cli
from fastcam.data import CelebA, PreparedFaces
from fastcam.experiments import CATALOGUE, ExperimentConfig, backbones, kimura_tanaka, run
from fastcam.experiments.arms import BEFORE, CONTROL, table1_arms
from fastcam.experiments.last_layer import retrain_last_layer
from fastcam.experiments.measures import MEASURES
from fastcam.experiments.runner import EXPERIMENTS
from fastcam.experiments.settings import LIPSTICK
from fastcam.models import build
from fastcam.models.checkpoint import Checkpoint, Preprocessing
from fastcam.regions import LandmarkTable, Region
from fastcam.training import TrainingDiverged
from fastcam.training.task import AttributeTask

TINY = ExperimentConfig(
    pairs=1, images=160, splits=(0.3, 0.3, 0.4), model=MODEL, size=32, epochs=1, batch_size=16,
    lr=0.02, reliance_images=8, altered_images=20, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiments")


def _run(name: str, out: Path, **changes: Any) -> Any:
    said: list[str] = []
    saved = run(name, out, replace(TINY, **changes), workers=1, say=said.append)
    return saved, said


def test_the_catalogue_and_the_experiments_are_the_same() -> None:
    assert set(CATALOGUE) == set(EXPERIMENTS)


def test_table1_holds_every_network_with_its_numbers(out: Path) -> None:
    saved, _ = _run("table1", out)
    networks, changes = saved.tables
    names = [BEFORE, *(arm.name for arm in table1_arms(LIPSTICK))]
    assert [row[0] for row in networks.rows] == names
    assert networks.header[1:-1] == list(MEASURES)
    assert networks.header[-1].endswith("not balanced: test, E1, E2, sunglasses")
    beside = {row[0]: row[-1] for row in networks.rows}  # as printed in the paper
    assert beside[BEFORE] == "92.90, 98.06, 82.17, 83.53"
    assert beside["iou"] == beside["iou, w_g 5"] == "93.25, 98.31, 83.31, 86.61"
    assert (beside["N_o"], beside["N_w"]) == ("56.88, –, –, –", "93.14, –, –, –")
    assert beside["center"] == "93.26, 98.29, 83.23, –" and beside[CONTROL] == "–"
    assert [row[0] for row in changes.rows] == names[2:]
    assert "one training; accuracies: 95% paired bootstrap" in changes.title
    content = json.loads((out / "table1.json").read_text())
    assert content["settings"]["torch"] == torch.__version__
    found = content["values"]["pairs"][LIPSTICK.slug]
    numbers = found["networks"][CONTROL][0]
    assert 0 <= numbers["test"] <= 1
    assert numbers["E2"] == numbers["E2 at equal not a"]
    n = found["images"][0]
    assert n["all"] == 64
    assert n["E1"] + n["E2"] + n["not a"] == n["all"]
    assert found["networks"]["N_w"][0] != numbers
    with open(out / "table1.csv", newline="") as handle:
        rows = list(csv.reader(handle))
    assert len(rows) == 2 + len(names) + len(names) - 2
    assert matplotlib.image.imread(out / "table1.png").std() > 0.01
    (out / "table1.csv").unlink()  # as a kill behind the last but one file leaves it
    again, said = _run("table1", out)
    assert again.values == saved.values
    assert (out / "table1.csv").stat().st_size > 100
    assert "kept" in said[-1]


def test_what_is_trained_is_shared(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figure 6 needs no network that Table 1 has not trained."""
    _run("table1", out)

    def fails(*_: Any) -> None:
        raise AssertionError("trained anew")

    monkeypatch.setattr(AttributeTask, "training_step", fails)
    saved, _ = _run("figure6", out)
    assert saved.tables[0].header == ["face", BEFORE, "N_o", "N_w", "IoU loss"]
    assert matplotlib.image.imread(out / "figure6.png").std() > 0.01


def test_a_seed_more_trains_that_seed_alone(tmp_path: Path) -> None:
    _run("table1", tmp_path, images=100)
    one = json.loads((tmp_path / "table1.json").read_text())["values"]["pairs"]
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "seed0").rglob("*.pt")}
    assert len(kept) > 10
    _, said = _run("table1", tmp_path, images=100, seeds=2)
    content = json.loads((tmp_path / "table1.json").read_text())
    assert content["settings"]["seeds"] == 2
    networks = content["values"]["pairs"][LIPSTICK.slug]["networks"]
    assert [len(v) for v in networks.values()] == [2] * len(networks)
    for name, first in one[LIPSTICK.slug]["networks"].items():
        assert networks[name][0] == first[0]
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert any("seed 1: training" in line for line in said)


def test_figure7_shows_faces_before_and_after(out: Path) -> None:
    saved, _ = _run("figure7", out)
    assert saved.tables[0].header == ["face", BEFORE, CONTROL, "guided"]


def test_each_backbone_has_its_control(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "BACKBONES", {MODEL: {}, "resnet18": {"lr": 0.01, "size": 64}})
    saved, _ = _run("backbones", out)
    assert [t.title.split(":")[0] for t in saved.tables] == [MODEL, MODEL, "resnet18", "resnet18"]
    for networks in saved.tables[::2]:
        names = [row[0] for row in networks.rows]
        assert names[:4] == [BEFORE, CONTROL, "iou", "energy"]
        assert names[4:] == ["iou, free rectangle", "iou, fixed rectangle"]
        assert "; 1 training, images in the first: all " in networks.title
    assert matplotlib.image.imread(out / "backbones.png").std() > 0.01


def test_a_backbone_that_diverges_is_told_and_the_others_go_on(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastcam.experiments.study import Study

    trained = Study.base

    def diverges(self: Study, seed: int, model: str | None = None, **changes: Any) -> Path:
        if model == "resnet18":
            raise TrainingDiverged("the attribute loss became nan")
        return trained(self, seed, model, **changes)

    monkeypatch.setattr(backbones, "BACKBONES", {"resnet18": {}, MODEL: {}})
    monkeypatch.setattr(Study, "base", diverges)
    saved, said = _run("backbones", tmp_path, images=100)
    assert any("became nan" in line for line in said)
    first, _, second, _ = saved.tables
    assert all(set(row[1:]) == {"diverged"} for row in first.rows)
    assert "images" not in first.title and "images" in second.title
    assert second.rows[0][1] != "diverged"


def test_the_mean_face_is_the_same_rectangle_everywhere(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "faces", 24)
    own = LandmarkTable.load(data / "landmarks68.npz")
    path = backbones.mean_face(data, tmp_path / "mean.npz")
    fixed = LandmarkTable.load(path).select(list(own.name))
    np.testing.assert_allclose(fixed.landmarks[0], own.landmarks.mean(0), atol=1e-3)
    grids = Region.parse("mouth").grid(fixed.landmarks, (48, 40), (12, 10))
    assert (grids == grids[0]).all() and grids.any()
    moving = Region.parse("mouth").grid(own.landmarks, (48, 40), (12, 10))
    assert not (moving == moving[0]).all()
    assert backbones.mean_face(data, path) == path  # again


def test_every_table_and_figure_of_the_masks(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kimura_tanaka.TRAINING, "size", 32)
    said = {}
    for name in CATALOGUE:
        if name.startswith("mask-"):
            saved, said[name] = _run(name, out)
            assert len(saved.tables) >= 1 and saved.tables[0].rows
            assert matplotlib.image.imread(out / f"{name}.png").std() > 0.01
    assert sum(any("attention from scratch" in s for s in lines) for lines in said.values()) == 5
    targets = {"mask-table2": ["1", "32", "64"]}
    targets["mask-table3"] = ["Black_Hair", "Heavy_Makeup", "Bushy_Eyebrows"]
    for name, expected in targets.items():
        (table,) = json.loads((out / f"{name}.json").read_text())["tables"]
        assert [row[0] for row in table["rows"]] == expected
    ablation = json.loads((out / "mask-table1.json").read_text())["values"]
    assert all(len(v["accuracy"]) == 1 for v in ablation["scores"].values())


def test_a_network_that_diverges_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastcam.experiments import study

    kept = study.train

    def diverges(config: Any, *more: Any, **options: Any) -> Any:
        if config.guidance is not None and config.guidance.w_g:
            raise TrainingDiverged("the gradient became nan")
        return kept(config, *more, **options)

    monkeypatch.setattr(study, "train", diverges)
    saved, said = _run("table1", tmp_path, images=100)
    row = next(r for r in saved.tables[0].rows if r[0] == "iou, w_g 5")
    assert set(row[1:-1]) == {"diverged"}
    assert any("the gradient became nan" in line for line in said)


def test_other_settings_and_names_are_refused(out: Path) -> None:
    _run("figure6", out)
    with pytest.raises(ValueError, match=r"holds experiments with other settings \(epochs\)"):
        _run("figure6", out, epochs=2)
    with pytest.raises(ValueError, match="name: expected one of 'table1'"):
        _run("table2", out)
    with pytest.raises(ValueError, match="seeds: expected at least 1, got 0"):
        replace(TINY, seeds=0)


def test_the_list_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["experiment", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in CATALOGUE)


def test_the_last_layer_is_refit_to_balanced_groups(tmp_path: Path) -> None:
    """Lips and Eyes agree in three of four; a network that reads the eyes is taught the lips."""
    data = write_faces(tmp_path / "faces", 240)
    torch.manual_seed(0)
    names = ["Lips", "Eyes", "Dark"]
    checkpoint = Checkpoint(build(MODEL, 3), MODEL, names, Preprocessing(32))
    valid = PreparedFaces(CelebA(data, "valid"), 32)
    test = PreparedFaces(CelebA(data, "test"), 32)
    before = {k: v.clone() for k, v in checkpoint.model.state_dict().items()}
    refit = retrain_last_layer(checkpoint, valid, "Lips", "Eyes")
    assert refit is not None
    after = refit.model.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in checkpoint.model.state_dict().items())
    changed = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert changed == {"classifier.3.weight", "classifier.3.bias"}
    assert torch.equal(after["classifier.3.weight"][1:], before["classifier.3.weight"][1:])
    images = torch.stack([test[i]["image"].as_subclass(torch.Tensor) for i in range(len(test))])
    refit.model.eval()
    with torch.no_grad():
        score = refit.model(refit.preprocessing.normalize(images))[:, 0]
    right = ((score > 0) == (test.labels[:, 0] > 0.5)).float()
    part = test.labels[:, 0] != test.labels[:, 1]
    assert right[part].mean() > 0.6  # features of a random network
    few = PreparedFaces(CelebA(data, "valid"), 32, indices=range(8))
    assert retrain_last_layer(checkpoint, few, "Lips", "Eyes") is None


def test_fine_tunings_beside_each_other_give_the_same_table(out: Path, tmp_path: Path) -> None:
    _run("table1", out)
    run("table1", tmp_path, TINY, workers=1, jobs=2, say=lambda _: None)
    alone, beside = (
        json.loads((folder / "table1.json").read_text())["values"]["pairs"][LIPSTICK.slug]
        for folder in (out, tmp_path)
    )
    assert beside["networks"].keys() == alone["networks"].keys()
    for name, (numbers,) in alone["networks"].items():
        found = beside["networks"][name][0]
        assert found == pytest.approx(numbers, abs=1e-4, nan_ok=True), name


def test_no_jobs_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs: expected a whole number of at least 1, got 0"):
        run("table1", tmp_path, TINY, jobs=0)
