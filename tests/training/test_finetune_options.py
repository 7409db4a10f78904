"""What a fine-tuning is told besides its targets: losses, a cut-out, another layer."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_faces import MODEL, write_faces
from tiny_runs import run_config, same_weights

from fastcam import cli
from fastcam.data.batches import loader
from fastcam.losses.cam import CAM_LOSSES
from fastcam.models import build, load_checkpoint, model_spec
from fastcam.training import GuidanceConfig, TrainConfig, summary, train
from fastcam.training.guidance import Guidance
from fastcam.training.history import read_history
from fastcam.training.inputs import folder_batches, open_data

MOUTH = GuidanceConfig((("Lips", "mouth"),), pull=1.0)
SMALL: dict[str, Any] = {"batch_size": 12, "device": "cpu", "workers": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 48)


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(run_config(data, epochs=4), tmp_path_factory.mktemp("start")).checkpoint


def _tuned(data: Path, start: Path, out: Path, **changes: Any) -> Any:
    return train(TrainConfig.finetune(start, data, **{"guidance": MOUTH, **SMALL, **changes}), out)


@pytest.mark.parametrize("name", CAM_LOSSES)
def test_every_loss_fine_tunes(name: str, data: Path, start: Path, tmp_path: Path) -> None:
    result = _tuned(
        data, start, tmp_path / "a", guidance=dataclasses.replace(MOUTH, losses=(name,))
    )
    steps = [r for r in read_history(result.history) if "train/loss" in r]
    assert len(steps) == 2
    for record in steps:
        assert record["train/loss_g"] > 0 and record["train/ratio"] > 0
        wanted = record["train/loss_a"] + record["train/ratio"] * record["train/loss_g"]
        assert record["train/loss"] == pytest.approx(wanted, rel=1e-5)
        assert ("train/sharpness" in record) == (name == "iou")
    control = dataclasses.replace(MOUTH, pull=0.0)
    assert not same_weights(
        result.checkpoint, _tuned(data, start, tmp_path / "b", guidance=control).checkpoint
    )


def test_two_losses_draw_as_hard_as_each_pull_says(data: Path, start: Path, tmp_path: Path) -> None:
    both = dataclasses.replace(MOUTH, losses=("iou", "energy=0.3"), pull=0.5)
    assert both.pulls == {"iou": 0.5, "energy": 0.3}
    result = _tuned(data, start, tmp_path, guidance=both)
    for r in (r for r in read_history(result.history) if "train/loss" in r):
        wanted = r["train/loss_a"] + 0.5 * r["train/ratio"] * r["train/loss_g"]
        wanted += 0.3 * r["train/ratio_energy"] * r["train/loss_g_energy"]
        assert r["train/loss"] == pytest.approx(wanted, rel=1e-5)
        assert r["train/ratio_energy"] != r["train/ratio"]
    stored = load_checkpoint(result.checkpoint).history[-1]["settings"]["guidance"]["losses"]
    assert stored == ["iou", "energy=0.3"]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (("energie",), r"unknown loss 'energie' \(did you mean 'energy'\?\); expected some of"),
        (("iou", "iou=2"), "losses: expected no name twice, got 'iou' twice"),
        (("iou=0",), "expected iou=PULL with a pull above 0 and finite, got 'iou=0'"),
        (("iou=hard",), "expected iou=PULL .* got 'iou=hard'"),
        (("iou=inf",), "expected iou=PULL .* got 'iou=inf'"),
    ],
)
def test_losses_that_are_none_are_named(losses: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MOUTH, losses=losses)


def test_a_fixed_weight_is_that_of_one_loss_and_a_control_has_none() -> None:
    with pytest.raises(ValueError, match="w_g is the weight of one loss .* got losses iou, energy"):
        GuidanceConfig(MOUTH.targets, w_g=1.0, losses=("iou", "energy"))
    with pytest.raises(ValueError, match="w_g is the weight of one loss without a pull"):
        GuidanceConfig(MOUTH.targets, w_g=1.0, losses=("energy=1",))
    assert GuidanceConfig(MOUTH.targets, w_g=1.0, losses=("l1",)).pulls == {"l1": 0.0}
    control = dataclasses.replace(MOUTH, losses=("iou", "energy=0.3"), pull=0.0)
    assert control.pulls == {"iou": 0.0, "energy": 0.0} and not control.guides


@pytest.mark.parametrize("without", ["left_eye,right_eye", "outside"])
def test_a_cut_out_alone_hides_training_images_and_no_others(
    without: str, data: Path, start: Path, tmp_path: Path
) -> None:
    control = dataclasses.replace(MOUTH, pull=0.0)
    options: dict[str, Any] = {"guidance": control, "augment": "none"}
    plain = _tuned(data, start, tmp_path / "plain", **options)
    hidden = _tuned(data, start, tmp_path / "hidden", without=without, **options)
    never = _tuned(data, start, tmp_path / "never", without=without, hide_share=0.0, **options)
    assert same_weights(plain.checkpoint, never.checkpoint)
    assert not same_weights(plain.checkpoint, hidden.checkpoint)
    settings = load_checkpoint(hidden.checkpoint).history[-1]["settings"]
    assert (settings["without"], settings["hide_share"]) == (without, 0.25)
    config = TrainConfig.finetune(start, data, control, without=without, hide_share=1.0, **SMALL)
    checkpoint = load_checkpoint(start)
    config = dataclasses.replace(config, augment="none")
    hiding = folder_batches(config, checkpoint, open_data(config))
    for images, collate, changed in (
        (hiding.train, hiding.collate, True),
        (hiding.valid, hiding.valid_collate, False),
    ):
        (batch,) = loader(images, len(images), collate)
        found = hiding.on_after_batch_transfer(batch, 0)["image"]
        assert torch.equal(found[0], images[0]["image"]) != changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": "outside", "guidance": None}, "hides all but the guided regions; none is"),
        ({"without": "mouth"}, "hides 100% of the guided region mouth: the network cannot look"),
        ({"without": "chin", "hide_share": 1.5}, "hide_share: expected a number in .* got 1.5"),
        ({"hide_share": -0.5}, "hide_share: expected a number in"),
    ],
)
def test_a_cut_out_that_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig("faces", **{"guidance": MOUTH, **changes})


def test_the_loss_is_energy_beside_a_pull_and_the_papers_beside_a_weight() -> None:
    assert GuidanceConfig(MOUTH.targets).pulls == {"energy": 1.0}
    assert GuidanceConfig(MOUTH.targets, pull=0.0).losses == ("energy",)
    assert GuidanceConfig(MOUTH.targets, w_g=0.1).losses == ("iou",)
    assert GuidanceConfig(MOUTH.targets, losses=("l1",), w_g=0.1).losses == ("l1",)


def test_a_guided_run_hides_all_but_the_region_and_a_control_nothing() -> None:
    def hidden(guidance: GuidanceConfig, **changes: str) -> str:
        return TrainConfig.finetune("model.pt", "faces", guidance, **changes).without

    assert hidden(MOUTH) == "outside"
    assert TrainConfig.finetune("model.pt", "faces", MOUTH).hide_share == 0.25
    assert hidden(dataclasses.replace(MOUTH, pull=0.0)) == "nothing"
    assert hidden(GuidanceConfig(MOUTH.targets, w_g=1.0)) == "nothing"  # the paper's equation
    assert hidden(MOUTH, without="nothing") == "nothing"
    assert hidden(dataclasses.replace(MOUTH, pull=0.0), without="outside") == "outside"
    assert TrainConfig("faces", guidance=MOUTH).without == "nothing"
    assert TrainConfig("faces", without="auto").without == "nothing"


def test_a_cut_out_of_what_is_guided_warns_and_is_free_in_a_control() -> None:
    eye = GuidanceConfig((("Eyes", "left_eye"),))
    with pytest.warns(UserWarning, match=r"without left_eyebrow hides 2\d% of .* left_eye"):
        TrainConfig("faces", guidance=eye, without="left_eyebrow")
    TrainConfig("faces", guidance=dataclasses.replace(eye, pull=0.0), without="left_eye")


def test_another_layer_is_guided_on_its_own_grid(data: Path, start: Path, tmp_path: Path) -> None:
    """``features.1`` has 16×16 cells, where the model's own has 8×8."""
    shallow = dataclasses.replace(MOUTH, target_layer="features.1")
    result = _tuned(data, start, tmp_path / "shallow", guidance=shallow)
    own = _tuned(data, start, tmp_path / "own")
    assert result.before == own.before  # validation is at the model's own layer
    assert not same_weights(result.checkpoint, own.checkpoint)
    stored = load_checkpoint(result.checkpoint)
    assert stored.history[-1]["settings"]["guidance"]["target_layer"] == "features.1"
    assert stored.spec.target_layer == "features.3"
    assert result.before is not None
    said = summary(shallow, result.before, result.after)
    assert "(measured at the model's own layer, guided at features.1)" in said
    with pytest.raises(ValueError, match="features.99"):
        _tuned(
            data,
            start,
            tmp_path / "none",
            guidance=dataclasses.replace(MOUTH, target_layer="features.99"),
        )
    guidance = Guidance(shallow, build(MODEL, 3), model_spec(MODEL), ["Lips", "Eyes", "Dark"])
    _, term = guidance(
        torch.randn(4, 3, 32, 32), torch.ones(4, 3), torch.rand(4, 1, 16, 16).round()
    )
    assert math.isfinite(float(term.total.detach()))


def test_the_command_line_takes_them(
    data: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", start, data, "-a", "Lips", "-r", "mouth", "-o", tmp_path / "tuned"]
    command += ["--loss", "iou", "--loss", "energy=0.3", "--without", "left_eye,right_eye"]
    command += ["--hide-share", 0.25, "--target-layer", "features.1"]
    command += ["--batch-size", 12, "--workers", 1, "--device", "cpu"]
    assert cli.main([str(x) for x in command]) == 0
    settings = load_checkpoint(tmp_path / "tuned" / "model.pt").history[-1]["settings"]
    assert (settings["without"], settings["hide_share"]) == ("left_eye,right_eye", 0.25)
    assert settings["guidance"]["losses"] == ["iou", "energy=0.3"]
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        assert cli.main(["finetune", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--loss", "--without", "--hide-share"))
