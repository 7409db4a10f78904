"""What a training says of files that are stolen, cut or cannot be written; it keeps what it has."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tiny_faces import MODEL, write_faces
from tiny_runs import same_weights
from torch import Tensor

from fastcam import cli
from fastcam.training.task import AttributeTask

IMAGES = "img_align_celeba"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces, and a network to start from."""
    root = tmp_path_factory.mktemp("made")
    write_faces(root / "faces", 48)
    assert _run(*_train(root / "faces", root / "base", epochs=1)) == 0
    shutil.rmtree(root / "faces" / ".fastcam-cache")
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "place"))


def _run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def _train(data: Path, out: Path, epochs: int = 3, *more: object) -> list[object]:
    return ["train", data, "-o", out, "--model", MODEL, "--size", 32, "--epochs", epochs,
            "--batch-size", 12, "--device", "cpu", "--workers", 1, "--patience", 0,
            *more]  # fmt: skip


def _finetune(place: Path, out: Path) -> list[object]:
    return ["finetune", place / "base" / "model.pt", place / "faces", "-a", "Lips", "-r", "mouth",
            "-o", out, "--batch-size", 12, "--device", "cpu", "--workers", 1]  # fmt: skip


def _experiment(place: Path) -> list[object]:
    return ["experiment", "figure7", "--data", place / "faces", "-o", place / "experiments",
            "--attribute", "Lips", "--other", "Eyes", "--region", "mouth",
            "--elsewhere", "left_eye,right_eye", "--model", MODEL, "--size", 32, "--epochs", 1,
            "--batch-size", 12, "--device", "cpu", "--workers", 1]  # fmt: skip


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    assert said.startswith("fastcam: error: ") and said.count("\n") == 1, said
    assert "[Errno" not in said and "Traceback" not in said
    return said


def _in_second_epoch(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Do something when the state of the first epoch has been saved."""
    kept, done = AttributeTask.training_step, []

    def does(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.current_epoch == 1 and not done:
            done.append(do())
        return kept(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", does)


@pytest.mark.parametrize("how", ["stolen", "cut"])
def test_an_image_that_is_lost_within_a_run_is_named_and_the_run_goes_on_with_it_back(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """Decoded in every epoch, as where there is room for no cache."""
    monkeypatch.setattr("fastcam.data.prepared.available_memory", lambda: 0)
    data, out = place / "faces", place / "run"
    assert _run(*_train(data, place / "whole", 3, "--no-cache")) == 0
    image = data / IMAGES / "000003.jpg"
    content = image.read_bytes()

    def lose() -> None:
        image.unlink() if how == "stolen" else image.write_bytes(content[:300])

    capsys.readouterr()
    with monkeypatch.context() as patch:
        _in_second_epoch(patch, lose)
        assert _run(*_train(data, out, 3, "--no-cache")) == 2
    assert "000003.jpg" in _one_line(capsys)
    assert sorted(path.name for path in out.iterdir()) == [
        "history.csv", "last.ckpt", "settings.json",
    ]  # fmt: skip
    image.write_bytes(content)
    assert _run(*_train(data, out, 3, "--no-cache")) == 0
    assert same_weights(out / "model.pt", place / "whole" / "model.pt")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("faces/img_align_celeba/000003.jpg", "000003.jpg"),
        ("faces/list_attr_celeba.txt", "list_attr_celeba.txt"),
        ("faces/list_eval_partition.txt", "list_eval_partition.txt"),
        ("faces/landmarks68.npz", "is not a landmark table"),
        ("base/model.pt", "model.pt is no readable checkpoint: it is cut off"),
    ],
)
def test_a_cut_file_is_named_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    content = (place / name).read_bytes()
    (place / name).write_bytes(content[: len(content) // 2])
    assert _run(*_finetune(place, place / "run")) == 2
    assert words in _one_line(capsys)
    assert not (place / "run").exists()
    (place / name).write_bytes(content)
    assert _run(*_finetune(place, place / "run")) == 0


@pytest.mark.parametrize("name", ["faces/list_attr_celeba.txt", "base/model.pt"])
def test_a_stolen_file_is_named_and_one_that_is_no_more_needed_is_not_missed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (place / name).rename(place / "kept")
    assert _run(*_finetune(place, place / "run")) == 2
    assert Path(name).name in _one_line(capsys)
    (place / "kept").rename(place / name)
    _in_second_epoch(monkeypatch, (place / name).unlink)
    assert _run(*_finetune(place, place / "run"), "--epochs", 2) == 0


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("verb", ["train", "finetune", "landmarks", "synth", "experiment"])
def test_a_folder_that_takes_no_file_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    verb: str, error: int,
) -> None:  # fmt: skip
    """The system's answer is made up: the superuser may write anywhere."""
    (place / "faces" / "landmarks68.npz").rename(place / "l.npz") if verb == "landmarks" else None
    arguments = {
        "train": _train(place / "faces", place / "run"),
        "finetune": _finetune(place, place / "run"),
        "landmarks": ["landmarks", place / "faces", "--workers", 1],
        "synth": ["synth", place / "new", "-n", 2, "--workers", 1],
        "experiment": _experiment(place),
    }[verb]
    before = sorted(path for path in place.rglob("*"))

    def refuses(self: object, name: str = "", *rest: object) -> None:
        raise OSError(error, os.strerror(error), name)

    with monkeypatch.context() as patch:
        if error in (errno.ENOSPC, errno.EDQUOT):  # the lock, which takes no room, is had
            patch.setattr("fastcam._util.files._Raw.__init__", refuses)
        else:
            patch.setattr(FileLock, "acquire", refuses)
        assert _run(*arguments) == 2
    assert os.strerror(error) in _one_line(capsys)
    left = set(place.rglob("*")) - set(before)
    assert not [path for path in left if path.is_file() and ".fastcam-cache" not in path.parts]


def test_images_too_small_for_the_network_are_told_before_they_are_read(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "run"
    assert _run(*_train(place / "faces", out, 1, "--model", "alexnet")) == 2
    said = _one_line(capsys)
    assert "error: size: images of 32x32 pixels do not pass through the model (too small?)" in said
    assert not out.exists() and not (place / "faces" / ".fastcam-cache").exists()
