"""AlexNet's initialisation, the registry, and checkpoints."""

from __future__ import annotations

import dataclasses
import gzip
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from tiny_faces import MODEL, TinyNet
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models import alexnet as torchvision_alexnet

from fastcam import models
from fastcam.models import Checkpoint, ModelSpec, alexnet, load_checkpoint, save_checkpoint
from fastcam.models.checkpoint import Preprocessing


def test_alexnet_is_torchvisions_but_for_the_last_layer() -> None:
    model = alexnet(7)
    theirs = torchvision_alexnet()
    names = [(n, type(m)) for n, m in theirs.named_modules()][1:]
    assert [(n, type(m)) for n, m in model.named_modules()][1:] == names
    assert model.classifier[6].out_features == 7
    model.eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_he_initialisation_starts_at_one_half_and_keeps_the_signal() -> None:
    torch.manual_seed(0)
    model = alexnet(5).eval()
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            assert not layer.bias.any()
            if layer is not model.classifier[6]:
                fan_in = layer.weight[0].numel()
                std = float(layer.weight.detach().std())
                assert std == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
    images = torch.randn(4, 3, 96, 96)
    hidden = model.classifier[:6](model.avgpool(model.features(images)).flatten(1))
    assert 0.2 < float(hidden.detach().std()) < 20
    assert model(images).sigmoid().sub(0.5).abs().max() < 0.2


def test_alexnet_takes_weights_from_a_file(tmp_path: Path) -> None:
    theirs = torchvision_alexnet(num_classes=4)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = alexnet(3, weights=tmp_path / "weights.pth")
    assert torch.equal(model.features[0].weight, theirs.features[0].weight)
    assert torch.equal(model.classifier[4].bias, theirs.classifier[4].bias)
    assert float(model.classifier[6].weight.detach().std()) == pytest.approx(0.001, rel=0.1)
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth holds no weights for this AlexNet: .*miss"):
        alexnet(3, weights=tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("weights\n")
    with pytest.raises(ValueError, match=r"text\.pth holds no weights: it is a text file"):
        alexnet(3, weights=tmp_path / "text.pth")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        alexnet(3, weights=tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="num_attributes: expected at least 1, got 0"):
        alexnet(0)
    with pytest.raises(ValueError, match="init: expected one of"):
        alexnet(3, init="xavier")


def test_the_registry_names_what_it_knows() -> None:
    assert {"alexnet", MODEL} <= set(models.model_names())
    with pytest.raises(ValueError, match=r"unknown model 'alexnetz' \(did you mean 'alexnet'"):
        models.build("alexnetz", 3)
    with pytest.raises(ValueError, match="registered already"):
        models.register("alexnet", ModelSpec(TinyNet, "features.3"))


def test_grid_size() -> None:
    model = TinyNet(3).train()
    assert models.grid_size(model, "features.3", (32, 48)) == (8, 12)
    assert model.training
    assert model.classifier[0].training
    with pytest.raises(ValueError, match=r"no module 'features\.9'"):
        models.grid_size(model, "features.9", (32, 32))
    with pytest.raises(ValueError, match=r"to return a tensor \[N,C,H,W\], got shape \[1, 24\]"):
        models.grid_size(model, "classifier.1", (32, 32))
    with pytest.raises(ValueError, match="1x1 pixels do not pass"):
        models.grid_size(model, "features.3", (1, 1))
    grey = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(1))
    with pytest.raises(ValueError, match=r"\(it takes 1 channel.*images\[:, :1\].*got 3 channels"):
        models.grid_size(grey, "0", (8, 8))


def _checkpoint() -> Checkpoint:
    preprocessing = Preprocessing(32, "stretch", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    history = [{"settings": {"lr": 0.5, "guidance": None}, "metrics": {"valid/loss": 0.25}}]
    return Checkpoint(TinyNet(2), MODEL, ["A", "B"], preprocessing, history, exclusive=True,
                      target_layer="features.0")  # fmt: skip


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    saved = _checkpoint()
    path = save_checkpoint(tmp_path / "deep" / "model.pt", saved)
    loaded = load_checkpoint(path)
    assert not loaded.model.training
    assert (loaded.model_name, loaded.attributes) == (MODEL, ["A", "B"])
    assert loaded.preprocessing == saved.preprocessing
    assert loaded.history == saved.history
    assert (loaded.exclusive, loaded.target_layer) == (True, "features.0")
    assert (loaded.spec.target_layer, loaded.judged) == ("features.0", ["A", "B", "own_class"])
    for name, value in saved.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    payload = torch.load(path, weights_only=True)
    assert payload["versions"]["torch"] == str(torch.__version__)
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]


def test_what_could_not_be_read_again_is_not_saved(tmp_path: Path) -> None:
    """NumPy's numbers and texts are made plain; others are refused before anything is written."""
    record = {"accuracy": np.float64(0.75), "steps": (np.int64(3), 4), "dtype": torch.float32}
    saved = dataclasses.replace(
        _checkpoint(),
        attributes=list(np.array(["A", "B"])),
        preprocessing=Preprocessing(np.int64(32), mean=tuple(np.array([0.1, 0.2, 0.3]))),
        history=[record],
    )
    loaded = load_checkpoint(save_checkpoint(tmp_path / "model.pt", saved))
    assert (loaded.attributes, loaded.history) == (["A", "B"], [record])
    assert loaded.preprocessing == saved.preprocessing
    assert type(loaded.history[0]["accuracy"]) is float
    saved = dataclasses.replace(saved, history=[{"data": [tmp_path]}])
    with pytest.raises(TypeError, match=r"history\[0\]\['data'\]\[0\]: expected plain .* PosixPa"):
        save_checkpoint(tmp_path / "model.pt", saved)
    assert load_checkpoint(tmp_path / "model.pt").history == [record]


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_wrapped_model_is_saved_as_what_it_wraps(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    saved = _checkpoint()
    wrapped = dataclasses.replace(saved, model=wrap(saved.model))
    loaded = load_checkpoint(save_checkpoint(tmp_path / "model.pt", wrapped))
    torch.testing.assert_close(dict(loaded.model.state_dict()), dict(saved.model.state_dict()))


def test_a_checkpoint_without_a_part_and_one_that_would_run_code_are_refused(
    tmp_path: Path,
) -> None:
    path = save_checkpoint(tmp_path / "model.pt", _checkpoint())
    payload = torch.load(path, weights_only=True)
    del payload["preprocessing"], payload["history"]
    torch.save(payload, path)
    with pytest.raises(ValueError, match="damaged checkpoint: it lacks preprocessing, history"):
        load_checkpoint(path)

    class Runs:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"format": "fastcam-checkpoint", "version": Runs()}, path)
    with pytest.raises(ValueError, match="no readable checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_checkpoint(tmp_path / "model.pt", _checkpoint())
    before = path.read_bytes()

    def half(payload: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, _checkpoint())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="checkpoint .* does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match="is no readable checkpoint"):
        load_checkpoint(tmp_path / "text.pt")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is no fastcam checkpoint"):
        load_checkpoint(tmp_path / "other.pt")
    path = save_checkpoint(tmp_path / "model.pt", _checkpoint())
    payload = torch.load(path, weights_only=True)
    torch.save({**payload, "version": 99}, tmp_path / "new.pt")
    with pytest.raises(ValueError, match="format version 99"):
        load_checkpoint(tmp_path / "new.pt")
    torch.save({**payload, "attributes": ["A", "B", "C"]}, tmp_path / "misfit.pt")
    with pytest.raises(ValueError, match="does not fit its model"):
        load_checkpoint(tmp_path / "misfit.pt")


def _script(path: Path) -> None:
    torch.jit.script(nn.Linear(1, 1)).save(str(path))


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "it is empty"),
    "text": (lambda p: p.write_text("junk\n"), "it is a text file"),
    "umlaut": (lambda p: p.write_text("ä" * 400, "utf-8"), "it is a text file"),
    "bytes": (lambda p: p.write_bytes(bytes(range(256))), "it is no file of PyTorch"),
    "jpeg": (lambda p: p.write_bytes(b"\xff\xd8\xff\xe0abc"), "it is a JPEG picture"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"a")), "packed with gzip (unpack it first)"),
    "safetensors": (lambda p: p.write_bytes(b"\x02" + bytes(7) + b"{}"), "a safetensors file"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1}, 4)), "no readable checkpoint"),
    "zip": (_zip, "it is a zip archive of something else"),
    "script": (_script, "it is a TorchScript program"),
    "whole": (lambda p: torch.save(nn.Linear(1, 1), p), "it holds Python objects, such as a whole"),
    "weights": (lambda p: torch.save(nn.Linear(1, 1).state_dict(), p), "of another program's net"),
    "other": (lambda p: torch.save({"state_dict": {}}, p), "is a checkpoint of another program"),
    "tensor": (lambda p: torch.save(torch.zeros(1), p), "it holds a single tensor"),
    "list": (lambda p: torch.save([1], p), "it holds a list"),
    "lightning": (
        lambda p: torch.save({"pytorch-lightning_version": "2", "state_dict": {}}, p),
        "a checkpoint of PyTorch Lightning",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_of_another_kind_is_called_by_its_name(kind: str, tmp_path: Path) -> None:
    make, message = WRONG[kind]
    path = tmp_path / "wrong.pt"
    make(path)
    with pytest.raises(ValueError) as error:
        load_checkpoint(path)
    said = str(error.value)
    assert message in said and said.startswith(str(path)) and "RUN/model.pt" in said
    for foreign in ("weights_only", "\n", "\033", "pickle", "BytesIO"):
        assert foreign not in said.replace(str(path), "")


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_cut_checkpoint_is_damaged(kept: float, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "model.pt", _checkpoint())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"model\.pt is no readable checkpoint: it is cut off or"):
        load_checkpoint(path)
    path.write_bytes(whole[:300] + bytes(200) + whole[500:])
    with pytest.raises(ValueError, match=r"model\.pt is no readable checkpoint: it is damaged"):
        load_checkpoint(path)


def test_a_folder_and_an_unfinished_run_say_what_to_give_instead(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder; name a file such as RUN/model.pt"):
        load_checkpoint(tmp_path)
    path = save_checkpoint(tmp_path / "model.pt", _checkpoint())
    with pytest.raises(ValueError, match=r"is a folder; did you mean .*/model\.pt\?"):
        load_checkpoint(tmp_path)
    torch.save({"pytorch-lightning_version": "2", "state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="the state of an unfinished run.* again to finish it"):
        load_checkpoint(tmp_path / "last.ckpt")
    payload = torch.load(path, weights_only=True)
    for change in (
        {"preprocessing": {"size": 1}}, {"preprocessing": None}, {"attributes": 3},
        {"model_name": "other"}, {"state_dict": [1]}, {"state_dict": {}}, {"model_name": ["a"]},
        {"model_options": {"x": 1}},
    ):  # fmt: skip
        torch.save({**payload, **change}, path)
        with pytest.raises(ValueError, match=r"model\.pt"):
            load_checkpoint(path)
    torch.save({**payload, "version": 99, "versions": {"fastcam": "9.9"}}, path)
    with pytest.raises(ValueError, match=r"version 99 \(written by fastcam 9\.9\).*update fastcam"):
        load_checkpoint(path)


def test_a_file_of_others_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"model\.pt was not written by fastcam"):
        save_checkpoint(tmp_path / "model.pt", _checkpoint())
    assert (tmp_path / "model.pt").read_text() == "mine"


def test_normalisation() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    normal = _checkpoint().preprocessing.normalize(images)
    expected = [(0 - 0.1) / 0.5, (0.2 - 0.2) / 0.6, (1 - 0.3) / 0.7]
    torch.testing.assert_close(normal.flatten(), torch.tensor(expected))
    assert images.flatten().tolist() == [0, 51, 255]
    floats = images.float()
    torch.testing.assert_close(_checkpoint().preprocessing.normalize(floats), normal)
    assert floats.flatten().tolist() == [0, 51, 255]
    ready = _checkpoint().preprocessing.ready
    assert ready(floats) is floats and ready(images).equal(normal)
    own = Preprocessing(32, mean=(0.12, 0.2, 0.3))
    with torch.inference_mode():
        own.normalize(images)
    own.normalize(floats.requires_grad_()).sum().backward()  # with constants that it can keep
    lists = Preprocessing(32, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])  # as from a file
    torch.testing.assert_close(lists.normalize(images), normal)


def test_a_traced_normalisation_leaves_nothing_behind() -> None:
    preprocessing = Preprocessing(32, mean=(0.11, 0.2, 0.3))
    with FakeTensorMode() as mode:
        traced = preprocessing.normalize(mode.from_tensor(torch.zeros(1, 3, 2, 2)))
    assert type(traced) is not torch.Tensor
    real = preprocessing.normalize(torch.zeros(1, 3, 2, 2))
    assert type(real) is torch.Tensor
    with FakeTensorMode() as mode:  # nor do real constants get in its way
        preprocessing.normalize(mode.from_tensor(torch.zeros(1, 3, 2, 2)))
