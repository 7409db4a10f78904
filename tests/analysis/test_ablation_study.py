"""Training with and without reconstructor and multi-label classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_subject import OPTIONS, network_of

from fastcam import analysis
from fastcam.models import load_checkpoint
from fastcam.training import TrainConfig


def test_ablation_trains_four_variants_and_keeps_them(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        data=str(data), model="attention", model_options={**OPTIONS, "multilabel": False}, size=32,
        epochs=1, patience=0, batch_size=12, limit_train=12, device="cpu", workers=1,
    )  # fmt: skip
    notes: list[tuple[int, int, str]] = []
    found = analysis.ablation(
        config,
        tmp_path,
        [0, 1],
        progress=lambda _, done, total, note="": notes.append((done, total, note)),
    )
    assert [done for done, _, _ in notes] == sorted(done for done, _, _ in notes)
    assert {(done, total) for done, total, _ in notes} == {(i, 8) for i in range(9)}
    assert any(note.startswith("both, seed 1: epoch 1 of 1, 1/1 loss") for *_, note in notes)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/model.pt")}
    assert {p.parent.name for p in kept} == {f"{n}-{s}" for n in analysis.VARIANTS for s in (0, 1)}
    networks = {folder.parent.name: network_of(load_checkpoint(folder)) for folder in sorted(kept)}
    assert {network.channels for network in networks.values()} == {8}
    first, second = (networks[f"full-{seed}"].binary.weight for seed in (0, 1))
    assert not torch.equal(first, second)
    parts = {
        name: (network.multilabel is not None, network.reconstructor is not None)
        for name in analysis.VARIANTS
        for network in [networks[f"{name}-1"]]
    }
    assert parts == {
        "full": (True, True), "no_reconstructor": (True, False),
        "no_multilabel": (False, True), "neither": (False, False),
    }  # fmt: skip
    subject = analysis.load_attention(tmp_path / "neither-1" / "model.pt")
    means = analysis.attributes(subject, analysis.open_faces(subject, data)).means()
    assert found.scores["neither"]["precision"][1] == pytest.approx(means["precision"])
    assert analysis.ablation(config, tmp_path, [0, 1]) == found
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    few = analysis.ablation(config, tmp_path, [0, 1], split="valid", limit=5)
    assert few.images == 5
    assert analysis.ablation(config, tmp_path, [0], split="valid", limit=4).images == 4
    chosen = analysis.open_faces(subject, data, "valid", limit=5)
    means = analysis.attributes(subject, chosen).means()
    assert few.scores["neither"]["accuracy"][1] == pytest.approx(means["accuracy"])
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # judged again, not trained
    row = found.tables()[0].rows[0]
    mean = 50 * sum(found.scores["full"]["accuracy"])
    one, other = found.scores["full"]["accuracy"]
    spread = 100 * abs(one - other) / 2**0.5
    assert row[1] == f"{mean:.2f} ± {spread:.2f}%"
    assert row[-1] == "92.05"
    with pytest.raises(ValueError, match="seeds"):
        analysis.ablation(config, tmp_path, [0, 0])
    with pytest.raises(ValueError, match="model='attention'"):
        analysis.ablation(TrainConfig(data=str(data)), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"split": "tset"}, "split: expected one of .* got 'tset'"),
        ({"limit": 0}, "limit: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_judged_is_said_before_the_training(
    wrong: dict[str, Any], match: str, data: Path, tmp_path: Path
) -> None:
    config = TrainConfig(data=str(data), model="attention", model_options=OPTIONS, device="cpu")
    with pytest.raises(ValueError, match=match):
        analysis.ablation(config, tmp_path, [0], **wrong)
    assert not list(tmp_path.iterdir())
