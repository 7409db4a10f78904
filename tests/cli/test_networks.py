"""The command line on networks that fastcam did not train, and at layers of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_faces import ATTRIBUTES, MODEL, TinyNet, write_faces
from tiny_masks import write_images

from fastcam import cli, models
from fastcam.models import Checkpoint, ModelSpec, load_checkpoint, save_checkpoint
from fastcam.models.checkpoint import Preprocessing

FAST = ["--batch-size", "12", "--device", "cpu", "--workers", "1"]
SAID = ["--arch", MODEL, "--arch-attributes", ",".join(ATTRIBUTES), "--arch-size", "32"]
BARE = "tiny, of which no layer is known"

models.register(BARE, ModelSpec(TinyNet))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    (tmp_path / "theirs").mkdir()
    torch.save(TinyNet(3).state_dict(), tmp_path / "theirs" / "weights.pth")
    return tmp_path / "theirs" / "weights.pth"


def _run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def test_weights_alone_are_fine_tuned_evaluated_and_explained(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, guide = tmp_path / "tuned", ["-a", "Lips", "-r", "mouth"]
    tune = ["finetune", weights, data, *guide, "-o", out, *FAST]
    assert _run(*tune) == 2
    assert "or say whose weights these are: --arch NAME" in capsys.readouterr().err
    assert _run(*tune, *SAID) == 0
    tuned = load_checkpoint(out / "model.pt")
    assert (tuned.model_name, tuned.attributes) == (MODEL, list(ATTRIBUTES))
    assert tuned.preprocessing == Preprocessing(32)
    assert tuned.history[0]["settings"]["architecture"]["arch"] == MODEL
    assert _run(*tune, *SAID) == 0
    assert "(finished earlier, kept)" in capsys.readouterr().out
    both = [weights, out / "model.pt"]
    assert _run("evaluate", *both, data, *guide, "--no-reliance", *SAID) == 0
    assert "tuned against theirs" in capsys.readouterr().out
    image = data / "img_align_celeba" / "000001.jpg"
    explain = ["explain", weights, image, *guide, "-o", tmp_path / "e.png"]
    assert _run(*explain, *SAID) == 0
    assert (tmp_path / "e.png").is_file()
    capsys.readouterr()
    assert _run(*explain, "--arch", MODEL) == 2
    assert "--arch without --arch-attributes" in capsys.readouterr().err
    assert _run(*explain, "--arch", MODEL, "--arch-attributes", "A") == 2
    assert "with 1 scores: classifier.3.weight has shape (3, 24)" in capsys.readouterr().err


def test_of_weights_alone_the_layers_are_those_of_their_network(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("layers", weights) == 2
    said = capsys.readouterr().err
    assert "or the name of the network in place of the file" in said and "--arch" not in said


def test_weights_alone_of_a_classifier_of_classes(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "cells")
    assert _run("init", data, "--classes", "kind") == 0
    tune = ["finetune", weights, data, "-a", "own_class", "-o", tmp_path / "tuned", *FAST]
    arch = ["--arch", MODEL, "--arch-size", "32"]
    classes = [*arch, "--arch-classes", "cat,ant,bee"]  # as its scores are, not as the data
    assert _run(*tune, *arch, "--arch-attributes", "cat,ant,bee") == 2
    assert "judges attributes, which it has in any combination" in capsys.readouterr().err
    assert _run(*tune, *classes) == 0
    tuned = load_checkpoint(tmp_path / "tuned" / "model.pt")
    assert (tuned.exclusive, tuned.attributes) == (True, ["cat", "ant", "bee"])
    both = [weights, tmp_path / "tuned" / "model.pt", data]
    assert _run("evaluate", *both, "-a", "bee", "-r", "masks", "--no-reliance", *classes) == 0
    assert "tuned against theirs" in capsys.readouterr().out
    assert _run(*tune, *classes, "--arch-attributes", "cat,ant,bee") == 2
    assert "--arch-attributes and --arch-classes: expected one" in capsys.readouterr().err
    assert _run(*tune, *arch, "--arch-classes", "cat,ant,cat") == 2
    assert (
        "--arch-classes: expected another name for each score, got cat twice"
        in capsys.readouterr().err
    )
    assert _run(*tune, "--arch-classes", "cat,ant,bee") == 2
    assert "--arch-classes without --arch" in capsys.readouterr().err


def test_training_starts_with_weights_from_a_file(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", data, "--model", MODEL, "--size", 32, "--epochs", 1, "--lr", 1e-9, *FAST]
    assert _run(*train, "-o", tmp_path / "run", "--weights", weights) == 0
    theirs = torch.load(weights, weights_only=True)
    ours = load_checkpoint(tmp_path / "run" / "model.pt").model.state_dict()
    torch.testing.assert_close(ours["features.0.weight"], theirs["features.0.weight"])
    assert not torch.allclose(ours["classifier.3.weight"], theirs["classifier.3.weight"])
    capsys.readouterr()
    torch.save({k: v + 1 for k, v in theirs.items()}, weights)  # other weights: another run
    assert _run(*train, "-o", tmp_path / "run", "--weights", weights) == 2
    assert "other settings (weights_sha256)" in capsys.readouterr().err
    assert _run(*train, "-o", tmp_path / "x", "--weights", "IMAGENET1K_V1") == 2
    assert f"expected a file for model '{MODEL}'" in capsys.readouterr().err


def test_a_network_without_a_known_layer(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Checkpoint(TinyNet(3), BARE, list(ATTRIBUTES), Preprocessing(32))
    path = save_checkpoint(tmp_path / "start" / "model.pt", start)
    evaluate = ["evaluate", path, data, "-a", "Lips", "-r", "mouth", "--no-reliance"]
    tune = ["finetune", path, data, "-a", "Lips", "-r", "mouth", "-o", tmp_path / "tuned", *FAST]
    for command in (evaluate, tune):
        assert _run(*command) == 2
        said = capsys.readouterr().err
        assert "no layer is known at which the Grad-CAM of this TinyNet is taken" in said
        assert _run(*command, "--target-layer", "features.3") == 0
    assert load_checkpoint(tmp_path / "tuned" / "model.pt").spec.target_layer == "features.3"
    evaluate[1] = tmp_path / "tuned" / "model.pt"
    assert _run(*evaluate) == 0
    assert _run(*evaluate, "--target-layer", "features.33") == 2
    assert "no module 'features.33'; did you mean 'features.3'" in capsys.readouterr().err
