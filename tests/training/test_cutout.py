"""Cut-out in a run: training images alone, and resumable."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_faces import MODEL, write_faces
from tiny_runs import run_config, same_weights
from torch import Tensor

from fastcam import cli
from fastcam.data.batches import loader
from fastcam.models import build, save_checkpoint
from fastcam.models.checkpoint import Checkpoint, Preprocessing
from fastcam.regions import Region
from fastcam.training import GuidanceConfig, TrainConfig, train
from fastcam.training.inputs import folder_batches, initial_checkpoint, open_data
from fastcam.training.task import AttributeTask

MOUTH = GuidanceConfig((("Lips", "mouth"),))
EYES = "left_eye,right_eye"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 96)


def _images(config: TrainConfig, split: str) -> tuple[Tensor, Tensor]:
    """Images and landmarks of a split in their order, as the network gets them."""
    checkpoint = initial_checkpoint(config, ["Lips", "Eyes", "Dark"])
    batches = folder_batches(config, checkpoint, open_data(config))
    images = getattr(batches, split)
    collate = batches.collate if split == "train" else batches.valid_collate
    (batch,) = loader(images, len(images), collate.seeded(1))
    found = batches.on_after_batch_transfer(batch, 0)
    return found["image"].float(), found["landmarks"]


@pytest.mark.parametrize("without", [EYES, "outside"])
def test_training_images_lose_the_region_and_others_keep_it(data: Path, without: str) -> None:
    plain = run_config(data, guidance=MOUTH, augment="none")
    cut = dataclasses.replace(plain, without=without, hide_share=1.0)
    (before, points), (after, _) = _images(plain, "train"), _images(cut, "train")
    region = Region.parse("mouth" if without == "outside" else without)
    hidden = torch.from_numpy(region.grid(points.numpy(), (32, 32), (32, 32)))
    hidden = 1 - hidden if without == "outside" else hidden
    changed = (before - after).abs().amax(1) > 1
    assert not changed[hidden == 0].any()
    assert changed[hidden == 1].float().mean() > 0.8  # noise: few pixels have the mean's colour
    for one, other in zip(_images(plain, "valid"), _images(cut, "valid"), strict=True):
        assert torch.equal(one, other)


def test_outside_is_all_but_every_guided_region(data: Path) -> None:
    both = GuidanceConfig((("Lips", "mouth"), ("Eyes", "0.2,0.3,0.8,0.5")))
    plain = run_config(data, guidance=both, augment="none")
    cut = dataclasses.replace(plain, without="outside", hide_share=1.0)
    (before, points), (after, _) = _images(plain, "train"), _images(cut, "train")
    for text in ("mouth", "0.2,0.3,0.8,0.5"):
        inside = Region.parse(text).grid(points.numpy(), (32, 32), (32, 32)) == 1
        assert inside.any()
        same = (before - after).abs().amax(1) <= 1
        assert same[torch.from_numpy(inside)].all()


def test_a_share_of_the_images_is_hidden(data: Path) -> None:
    plain = run_config(data, augment="none")
    cut = dataclasses.replace(plain, without=EYES, hide_share=0.5)
    changed = (_images(plain, "train")[0] != _images(cut, "train")[0]).flatten(1).any(1)
    assert 0.25 < changed.float().mean() < 0.75


def test_a_killed_run_hides_the_same_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(data, without=EYES, epochs=2)
    whole = train(config, tmp_path / "whole")
    assert not same_weights(
        whole.checkpoint, train(run_config(data, epochs=2), tmp_path / "plain").checkpoint
    )
    kept = AttributeTask.training_step

    def dies(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 3:
            raise ArithmeticError("killed")
        return kept(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", dies)
    broken = dataclasses.replace(config, save_minutes=0.0)
    with pytest.raises(ArithmeticError, match="killed"):
        train(broken, tmp_path / "broken")
    monkeypatch.setattr(AttributeTask, "training_step", kept)
    assert same_weights(whole.checkpoint, train(broken, tmp_path / "broken").checkpoint)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"without": "outside", "guidance": None}, "hides all but the guided regions; none is"),
        ({"without": "mouth,chin"}, "hides 100% of the guided region mouth"),
        ({"without": EYES, "hide_share": 1.5}, "hide_share: expected a number in .* got 1.5"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainConfig("faces", **{"guidance": MOUTH, **changes})


def test_a_region_that_the_data_do_not_have_is_named(data: Path, tmp_path: Path) -> None:
    said = "without: region has no part called 'eyes'.* or one of 'outside'"
    with pytest.raises(ValueError, match=said):
        train(run_config(data, without="eyes"), tmp_path)


def test_the_command_takes_it(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = tmp_path / "start.pt"
    names = ["Lips", "Eyes", "Dark"]
    save_checkpoint(start, Checkpoint(build(MODEL, 3), MODEL, names, Preprocessing(32)))
    out = tmp_path / "run"
    code = cli.main(
        [
            "finetune", str(start), str(data), "-a", "Lips", "-r", "mouth", "-o", str(out),
            "--loss", "iou", "--loss", "energy=0.3", "--without", EYES, "--hide-share", "0.25",
            "--batch-size", "10", "--device", "cpu",
        ]
    )  # fmt: skip
    assert code == 0
    stored = json.loads((out / "settings.json").read_text())
    assert (stored["without"], stored["hide_share"]) == (EYES, 0.25)
    assert stored["guidance"]["losses"] == ["iou", "energy=0.3"]
