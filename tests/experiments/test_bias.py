"""``bias``: what each network may have seen, what chooses, and the tables; with a tiny network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_faces import MODEL

from fastcam.data import CelebA
from fastcam.experiments import ExperimentConfig, bias, run
from fastcam.experiments.arms import BEFORE, CONTROL
from fastcam.experiments.settings import LIPSTICK, PAIRS

TINY = ExperimentConfig(
    pairs=1, images=160, splits=(0.3, 0.3, 0.4), model=MODEL, size=32, epochs=1, batch_size=16,
    lr=0.02, reliance_images=8, altered_images=20, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("bias")
    return out, run("bias", out, TINY, workers=1, say=lambda _: None)


@pytest.mark.parametrize("pair", PAIRS)
def test_no_network_is_refit_to_images_on_which_the_attributes_part(pair: Any) -> None:
    """Otherwise what a network gains over the control could be its bias alone."""
    families = bias._families(pair)
    arms = [*bias._single(pair), *(arm for family in families.values() for arm in family)]
    assert len(arms) == 19
    assert all(arm.guidance["recalibrate"] is False for arm in arms)


def test_every_network_is_in_the_tables(found: tuple[Path, Any]) -> None:
    _, saved = found
    names = [row[0] for row in saved.tables[0].rows]
    assert names[:2] == [BEFORE, CONTROL]
    assert {"cut-out", "iou, pull 0.3", "energy, pull 2", "last layer"} <= set(names)
    assert {"all images", "GroupDRO, step 0.1", "all images, GroupDRO, step 1"} <= set(names)
    # Of 40 validation faces fewer than four have make-up without lipstick.
    assert set(saved.tables[0].rows[names.index("last layer")][1:]) == {"too few images"}
    chosen = {row[0]: row[1:] for row in saved.tables[2].rows}
    assert list(chosen)[-4:] == ["iou", "energy", "GroupDRO", "all images, GroupDRO"]
    values = saved.values[LIPSTICK.slug]
    worst = values["worst group on validation images"]
    best = max((f"energy, pull {p:g}" for p in bias.PULLS), key=lambda n: worst[n][0])
    assert chosen["energy"][-1].startswith(best.removeprefix("energy, "))
    test = values["networks"][best][0]["test"]
    assert chosen["energy"][0] == f"{100 * test:.1f}"
    # It sees other images than the control, which starts from the same network.
    assert values["networks"]["all images"] != values["networks"][CONTROL]


def test_a_quarter_of_the_drawn_faces_is_for_validation(found: tuple[Path, Any]) -> None:
    out, saved = found
    assert saved.settings["splits"] == list(bias.SPLITS)
    assert json.loads((out / "config.json").read_text())["splits"] == list(TINY.splits)
    faces = out / "bias" / "seed0" / "faces"
    counts = [len(CelebA(faces, split)) for split in ("train", "valid", "test")]
    assert counts == [61, 40, 59]
    (agreed,) = (out / "bias" / "seed0").glob("agreeing-*/faces")
    train = CelebA(agreed, "train")
    pair = [train.attributes.index(name) for name in (LIPSTICK.attribute, LIPSTICK.other)]
    assert 0 < len(train) < 61
    assert all(row[pair[0]] == row[pair[1]] for row in train.labels.tolist())
    assert len(CelebA(agreed, "valid")) == 40


def test_a_folder_that_has_moved_goes_on(found: tuple[Path, Any], tmp_path: Path) -> None:
    """With the faces that it holds: their links no longer lead there."""
    out, saved = found
    moved = tmp_path / "moved"
    shutil.copytree(out, moved, symlinks=True)
    for path in moved.glob("bias.*"):
        path.unlink()
    said: list[str] = []
    again = run("bias", moved, TINY, workers=1, say=said.append)
    assert again.values == saved.values
    links = [p for p in (moved / "bias").rglob("*") if p.is_symlink()]
    assert links and all(p.resolve().is_relative_to(moved) for p in links)
    for path in moved.rglob("model.pt"):
        if path.parent.name != "last_layer":
            old = out / path.relative_to(moved)
            assert path.stat().st_mtime_ns == old.stat().st_mtime_ns  # not trained anew


def test_networks_beside_each_other_give_the_same_table(tmp_path: Path) -> None:
    brief = replace(TINY, images=100, brief=True)
    values = []
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}"
        run("bias", out, brief, workers=1, jobs=jobs, say=lambda _: None)
        content = json.loads((out / "bias.json").read_text())
        values.append(content["values"][LIPSTICK.slug])
    alone, beside = (v["networks"] for v in values)
    assert list(alone) == list(beside)
    assert "energy, pull 0.3" in alone and "energy, pull 2" not in alone  # brief
    for name, (numbers,) in alone.items():
        (other,) = beside[name]
        assert other == (None if numbers is None else pytest.approx(numbers, abs=1e-4)), name
    key = "worst group on validation images"
    assert values[0][key] == values[1][key]
