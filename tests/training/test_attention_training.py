"""The attention network as a model like any: checkpoints, Grad-CAM, training, command line."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_faces import ATTRIBUTES, write_faces
from torch import Tensor
from torch.nn import functional as nnf

from fastcam import cli, models, reference
from fastcam.evaluation import evaluate
from fastcam.evaluation.cam_maps import attention_maps
from fastcam.evaluation.explain import explain_files
from fastcam.models import Checkpoint, load_checkpoint, save_checkpoint
from fastcam.models.checkpoint import Preprocessing
from fastcam.training import GuidanceConfig, TrainConfig, train
from fastcam.training.history import read_history
from fastcam.training.task import AttributeTask


def _checkpoint(**options: Any) -> Checkpoint:
    options = {"channels": 8, **options}
    model = models.build("attention", 3, options)
    return Checkpoint(
        model, "attention", list(ATTRIBUTES), Preprocessing(32), model_options=options
    )


def test_a_checkpoint_keeps_the_options(tmp_path: Path) -> None:
    saved = _checkpoint(
        reconstructor=False, dilations=[2], stride=4, norm="group", mask_hidden=3,
        classifier_hidden=5, loss={"lambda_1": 0.5},
    )  # fmt: skip
    loaded = load_checkpoint(save_checkpoint(tmp_path / "model.pt", saved))
    assert loaded.model_options == saved.model_options
    assert loaded.model.reconstructor is None
    assert loaded.model.multilabel is not None
    assert loaded.model.criterion.weights["lambda_1"] == 0.5
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.model(images), saved.model.eval()(images))
    assert loaded.spec.target_layer == "features"
    assert models.grid_size(loaded.model, "features", (32, 32)) == (8, 8)
    again = load_checkpoint(save_checkpoint(tmp_path / "again.pt", loaded))
    assert again.model_options == saved.model_options


def test_checkpoints_from_before_the_options_still_load(tmp_path: Path) -> None:
    model = models.build("tiny", 3)
    path = save_checkpoint(tmp_path / "model.pt", Checkpoint(model, "tiny", list(ATTRIBUTES)))
    payload = torch.load(path, weights_only=True)
    assert (payload["version"], payload["exclusive"]) == (3, False)
    del payload["model_options"], payload["exclusive"]
    torch.save({**payload, "version": 1}, path)
    old = load_checkpoint(path)
    assert (old.model_options, old.exclusive) == ({}, False)
    for name, value in model.state_dict().items():
        assert torch.equal(old.model.state_dict()[name], value)


def test_options_that_a_model_does_not_have() -> None:
    with pytest.raises(ValueError, match="'attention' has no option 'depth'; it has: channels, st"):
        models.build("attention", 3, {"depth": 2})
    with pytest.raises(ValueError, match="'alexnet' has no option 'channels'; it has: none"):
        models.build("alexnet", 3, {"channels": 2})
    with pytest.raises(ValueError, match="model_options: expected JSON values"):
        TrainConfig("faces", model_options={"channels": {1}})
    assert TrainConfig("faces", model_options={"dilations": (1, 2)}).settings()[
        "model_options"
    ] == {"dilations": [1, 2]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 96)


@pytest.mark.parametrize(("n", "beta"), [(1.0, 0.0), (3.0, 0.5)])
def test_grad_cam_is_that_of_the_features(n: float, beta: float) -> None:
    checkpoint = _checkpoint()
    network = checkpoint.model.double().eval()
    with torch.no_grad():
        network.binary.weight.abs_()  # so that no map is dead
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with network.transform(n=n, beta=beta):
        maps = attention_maps(network, images, [2, 0], checkpoint.spec)
    f = network.features(images).detach().requires_grad_()
    conv = network.masks_conv
    masks = nnf.conv2d(f, conv.weight, conv.bias).unflatten(1, (3, 8)).sigmoid()
    attended = ((1 + reference.tone_curve(masks, n, beta)) * f[:, None]).mean((-2, -1))
    logits = torch.einsum("nkc,kc->nk", attended, network.binary.weight) + network.binary.bias
    torch.testing.assert_close(maps.logits, logits.detach())
    for column, target in enumerate((2, 0)):
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), f, retain_graph=True)
        expected = reference.grad_cam(f, gradient)[:, 0]
        assert expected.any()
        torch.testing.assert_close(maps.cams[:, column], expected.detach())
    assert not any(p.grad is not None for p in network.parameters())


def test_train_on_the_command_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> int:
        return cli.main([str(a) for a in arguments])

    out = tmp_path / "run"
    command = [
        "train", data, "-o", out, "--model", "attention", "--size", 32, "--epochs", 20,
        "--batch-size", 12, "--lr", "0.05", "--clip", 5, "--patience", 0, "--device", "cpu",
        "--model-option", "channels=16", "--model-option", "dilations=[1]",
        "--model-option", "norm=batch", "--model-option", "reconstructor=False",
    ]  # fmt: skip
    assert run(*command) == 0
    checkpoint = load_checkpoint(out / "model.pt")
    assert checkpoint.model_options == {
        "channels": 16, "dilations": [1], "norm": "batch", "reconstructor": False,
    }  # fmt: skip
    steps = [r for r in read_history(out / "history.csv") if "train/loss" in r]
    for step in steps:
        parts = step["train/loss_binary"] + step["train/loss_multilabel"]
        expected = parts + 1e-5 * step["train/loss_l1"]
        assert step["train/loss"] == step["train/loss_a"] == pytest.approx(expected, rel=1e-5)
    assert not any("train/loss_reconstruction" in step for step in steps)
    losses = [step["train/loss_binary"] for step in steps]
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])
    majority = _majority(data, "Lips")
    assert evaluate(checkpoint, data, attribute="Lips")["all"].accuracy > majority + 0.1
    capsys.readouterr()
    assert run(*command) == 0  # a finished run is kept
    same = [*command[:-2], "--no-reconstructor"]
    assert run(*same) == 0
    with_reconstructor = command[:-2]
    assert run(*with_reconstructor) == 2
    assert "other settings (model_options.reconstructor)" in capsys.readouterr().err
    evaluation = ["evaluate", out / "model.pt", data, "-a", "Lips", "-b", "Eyes", "-r", "mouth"]
    assert run(*evaluation, "--device", "cpu") == 0
    picture = explain_files(
        [out / "model.pt"], [data / "img_align_celeba" / "000001.jpg"], "Lips", tmp_path / "e.png"
    )
    assert picture.read_bytes().startswith(b"\x89PNG")


def _majority(data: Path, attribute: str) -> float:
    from fastcam.data import CelebA

    faces = CelebA(data, "test")
    share = float(faces.labels[:, faces.attribute(attribute)].float().mean())
    return max(share, 1 - share)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model-option", "channels"], "--model-option: expected name=value, got 'channels'"),
        (["--model-option", "channels="], "--model-option: expected name=value"),
        (
            ["--model-option", "channels=many"],
            "channels: expected a whole number of at least 1, got 'many'",
        ),
        (["--model-option", "depth=3"], "'attention' has no option 'depth'; it has: channels"),
    ],
)
def test_wrong_options_on_the_command_line(
    options: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(data), "-o", str(tmp_path / "run"), "--model", "attention", *options]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err


def test_parts_belong_to_the_attention_network(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", str(data), "-o", str(tmp_path / "run"), "--no-multilabel"]) == 2
    assert "'alexnet' has no option 'multilabel'" in capsys.readouterr().err


def test_a_trained_network_can_be_guided(data: Path, tmp_path: Path) -> None:
    start = save_checkpoint(tmp_path / "start.pt", _checkpoint())
    guidance = GuidanceConfig((("Lips", "mouth"),), sharpness=4.0, weight_grad="detach")
    config = TrainConfig(
        str(data), start=str(start), epochs=1, patience=0, batch_size=16, clip=5.0, device="cpu",
        guidance=guidance,
    )  # fmt: skip
    result = train(config, tmp_path / "guided")
    with open(result.history, newline="") as handle:
        columns = set(csv.DictReader(handle).fieldnames or ())
    assert {"train/loss_g", "train/loss_reconstruction", "valid/energy"} <= columns
    tuned = load_checkpoint(result.checkpoint)
    assert tuned.model_options == {"channels": 8}
    full = GuidanceConfig((("Lips", "mouth"),))
    with pytest.raises(ValueError, match="weight_grad: expected 'detach' for this model.*'full'"):
        train(TrainConfig(str(data), start=str(start), guidance=full), tmp_path / "full")


def test_a_killed_run_ends_as_if_it_had_not_been(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        str(data), model="attention", model_options={"channels": 8}, size=32, epochs=2, patience=0,
        batch_size=16, clip=5.0, device="cpu", save_minutes=0.0,
    )  # fmt: skip
    whole = train(config, tmp_path / "whole")
    kept = AttributeTask.training_step

    def dies(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 4:
            raise KeyError
        return kept(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", dies)
    with pytest.raises(KeyError):
        train(config, tmp_path / "broken")
    monkeypatch.setattr(AttributeTask, "training_step", kept)
    resumed = train(config, tmp_path / "broken")
    assert read_history(whole.history) == read_history(resumed.history)
    one, two = (load_checkpoint(r.checkpoint).model.state_dict() for r in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
