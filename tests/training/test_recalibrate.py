"""The re-fit of guided biases: its optimum, its edge cases, and what a fine-tuning does with it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_faces import ATTRIBUTES, MODEL, write_faces
from torch.nn import functional as nnf

from fastcam.evaluation import predict
from fastcam.evaluation.cam_maps import ScoresNotFinite
from fastcam.evaluation.splits import prepare_split
from fastcam.models import Checkpoint, build, load_checkpoint, save_checkpoint
from fastcam.models.checkpoint import Preprocessing
from fastcam.models.registry import model_spec
from fastcam.training import GuidanceConfig, TrainConfig, train
from fastcam.training.recalibrate import FEWEST, fit_bias, recalibrate

MOUTH = GuidanceConfig(targets=(("Lips", "mouth"),))


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(3)
    return Checkpoint(build(MODEL, 3).eval(), MODEL, list(ATTRIBUTES), Preprocessing(32))


def test_no_other_bias_has_a_lower_loss() -> None:
    torch.manual_seed(0)
    scores, labels = 4 * torch.randn(300, 3) - 1, (torch.rand(300, 3) < 0.3).float()
    shift = fit_bias(scores, labels)
    assert shift.dtype == torch.float64

    def loss(bias: torch.Tensor) -> torch.Tensor:
        found = nnf.binary_cross_entropy_with_logits(
            scores.double() + bias, labels.double(), reduction="none"
        )
        return found.mean(0)

    for step in (1e-4, 0.1, 3.0):
        assert (loss(shift) < loss(shift + step)).all()
        assert (loss(shift) < loss(shift - step)).all()
    share = (scores.double() + shift).sigmoid().mean(0)
    torch.testing.assert_close(share, labels.double().mean(0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_a_shift_of_the_scores_is_taken_back(scale: float) -> None:
    scores, labels = scale * torch.randn(50, 1), (torch.arange(50) % 3 == 0).float()[:, None]
    once = fit_bias(scores, labels)
    again = fit_bias(scores.double() + once, labels)
    shifted = fit_bias(scores.double() + 2.5, labels)
    torch.testing.assert_close(again, torch.zeros_like(again), rtol=0, atol=1e-6)
    torch.testing.assert_close(shifted, once - 2.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_alone_says_nothing(label: float) -> None:
    labels = torch.full((5, 2), label)
    labels[0, 1] = 1 - label
    shift = fit_bias(torch.randn(5, 2), labels)
    assert shift[0] == 0
    assert shift[1] != 0


def _batches(count: int = 60) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    labels = (torch.rand(count, 3) < 0.6).float()
    return [
        {"image": i, "labels": j} for i, j in zip(images.split(8), labels.split(8), strict=True)
    ]


def test_only_the_chosen_bias_changes(checkpoint: Checkpoint) -> None:
    before = copy.deepcopy(checkpoint.model.state_dict())
    batches = _batches()
    shifts = recalibrate(checkpoint, [2, 0, 2], batches)
    assert list(shifts) == ["Lips", "Dark"]
    after = checkpoint.model.state_dict()
    for name, value in before.items():
        if name == "classifier.3.bias":
            moved = torch.tensor([shifts["Lips"], 0.0, shifts["Dark"]])
            torch.testing.assert_close(after[name], value + moved)
        else:
            assert torch.equal(after[name], value)
    assert not checkpoint.model.training
    assert recalibrate(checkpoint, [0, 2], batches) == pytest.approx(
        {"Lips": 0.0, "Dark": 0.0}, abs=1e-5
    )


def test_nothing_to_fit(checkpoint: Checkpoint) -> None:
    before = copy.deepcopy(checkpoint.model.state_dict())
    assert recalibrate(checkpoint, [], _batches()) == {}
    assert recalibrate(checkpoint, [0], []) == {}
    images = torch.cat([batch["image"] for batch in _batches(2 * FEWEST)])
    labels = (torch.arange(2 * FEWEST) < FEWEST).float()[:, None].repeat(1, 3)
    labels[-1, 1], labels[0, 2] = 1, 0  # one image too few lacks the second, or has the third
    few = [{"image": images, "labels": labels}]
    assert recalibrate(checkpoint, [1, 2], few) == {}
    assert recalibrate(checkpoint, [0, 1, 2], _batches(FEWEST + 5)) == {}  # too few of a class
    assert all(torch.equal(v, before[k]) for k, v in checkpoint.model.state_dict().items())
    assert list(recalibrate(checkpoint, [0, 1, 2], few)) == ["Lips"]
    with torch.no_grad():
        checkpoint.model.get_parameter("classifier.3.bias")[0] = torch.nan
    with pytest.raises(ScoresNotFinite):
        recalibrate(checkpoint, [0], _batches())


# One of each kind of head; tests/models/test_networks.py has the table of all.
@pytest.mark.parametrize(
    "name", ["alexnet", "attention", "resnet18", "vgg11", "mobilenet_v3_small", "convnext_tiny"]
)
def test_the_bias_that_a_model_names_is_added_to_its_scores(name: str) -> None:
    spec = model_spec(name)
    assert spec.logit_bias is not None
    model = build(name, 4).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        was = model(images)
        model.get_parameter(spec.logit_bias)[1] += 3.0
        change = model(images) - was
    torch.testing.assert_close(change, torch.tensor([0.0, 3.0, 0.0, 0.0]).expand(2, 4))


@pytest.mark.parametrize("patience", [0, 2])
def test_a_fine_tuning_ends_with_it(checkpoint: Checkpoint, tmp_path: Path, patience: int) -> None:
    data = write_faces(tmp_path / "faces", 192)
    start = tmp_path / "start.pt"
    with torch.no_grad():  # a network that always says yes
        checkpoint.model.get_parameter("classifier.3.bias")[0] = 5.0
    save_checkpoint(start, checkpoint)
    options = {"epochs": 2, "patience": patience, "batch_size": 16, "device": "cpu", "workers": 1}
    config = TrainConfig.finetune(start, data, MOUTH, lr=1e-4, **options)
    result = train(config, tmp_path / "tuned")
    assert result.before is not None
    assert list(result.biases) == ["Lips"]
    assert result.biases["Lips"] < -3
    assert result.after["valid/loss"] < result.before["valid/loss"]
    tuned = load_checkpoint(result.checkpoint)
    assert tuned.history[-1]["biases"] == result.biases
    found = predict(tuned, prepare_split(tuned, data, "valid", workers=1), attribute="Lips")
    share = found.logits[:, 0].sigmoid().mean()
    assert float(share) == pytest.approx(float(found.labels[:, 0].mean()), abs=1e-4)
    right = ((found.logits[:, 0] > 0) == (found.labels[:, 0] > 0.5)).float().mean()
    assert result.after["valid/accuracy_target"] == pytest.approx(float(right), abs=1e-6)
    assert train(config, tmp_path / "tuned").biases == result.biases

    plain = GuidanceConfig(targets=MOUTH.targets, recalibrate=False)
    result = train(TrainConfig.finetune(start, data, plain, **options), tmp_path / "plain")
    assert result.biases == {}
