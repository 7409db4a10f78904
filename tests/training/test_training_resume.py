"""Runs that were stopped, finished or damaged: what is kept, what goes on, what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_faces import MODEL, write_faces
from tiny_runs import run_config, same_weights, until_saved, weights_of
from torch import Tensor

from fastcam.training import GuidanceConfig, TrainingDiverged, train
from fastcam.training.history import History, read_history
from fastcam.training.resume import BestCheckpoint, ResumeCheckpoint
from fastcam.training.task import AttributeTask

GUIDANCE = GuidanceConfig(
    (("Lips", "mouth"),), losses=("iou",), pull=1.0, sharpness=4.0, sharpness_warmup=True
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 96)


class _Killed(Exception):
    pass


@pytest.mark.parametrize(
    "step", [3, 5, 7, 10], ids=["in 1st", "end of 1st", "in 2nd", "end of 2nd"]
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    config = run_config(
        data, guidance=GUIDANCE, clip=5.0, patience=2, schedule="cosine", without="left_eye,nose"
    )
    whole = train(config, tmp_path / "whole")
    kept = AttributeTask.training_step

    def dies(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == step:
            raise _Killed
        return kept(self, batch, batch_idx)

    broken = dataclasses.replace(config, save_minutes=0.0)
    monkeypatch.setattr(AttributeTask, "training_step", dies)
    with pytest.raises(_Killed):
        train(broken, tmp_path / "broken")
    assert (tmp_path / "broken" / "last.ckpt").is_file()
    assert not (tmp_path / "broken" / "model.pt").exists()
    steps: list[int] = []

    def counts(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor:
        steps.append(self.trainer.global_step)
        return kept(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", counts)
    resumed = train(broken, tmp_path / "broken")
    assert steps == list(range(step, 15))
    assert same_weights(whole.checkpoint, resumed.checkpoint)
    assert read_history(whole.history) == read_history(resumed.history)
    assert resumed.epochs == whole.epochs == 3


def test_a_process_killed_for_good_resumes(data: Path, tmp_path: Path) -> None:
    code = (
        f"train(TrainConfig({str(data)!r}, model='tiny', size=32, epochs=3, patience=0,"
        " batch_size=10, lr=0.05, clip=0.0, device='cpu', workers=1, save_minutes=0.0), out)\n"
    )
    out = tmp_path / "run"
    process = until_saved(code, out)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "model.pt").exists()
    resumed = train(run_config(data), out)
    assert same_weights(resumed.checkpoint, train(run_config(data), tmp_path / "whole").checkpoint)


def test_a_finished_run_is_kept_and_another_is_refused(data: Path, tmp_path: Path) -> None:
    first = train(run_config(data, epochs=1), tmp_path)
    stamp = first.checkpoint.stat().st_mtime_ns
    again = train(run_config(data, epochs=1, workers=2), tmp_path)  # workers decide no result
    assert again == dataclasses.replace(first, kept=True) and not first.kept
    assert again.checkpoint.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"holds a run with other settings \(epochs, lr\)"):
        train(run_config(data, epochs=2, lr=0.01), tmp_path)


def test_a_run_of_an_earlier_version_is_kept(data: Path, tmp_path: Path) -> None:
    """Its settings lack what came later; it ran as the defaults do."""
    config = run_config(data, epochs=1, guidance=GUIDANCE)
    train(config, tmp_path)
    path = tmp_path / "settings.json"
    settings = json.loads(path.read_text())
    for later in (
        "without", "hide_share", "regions", "group_step", "weights", "architecture", "optimizer",
        "warmup", "lr_batch", "nonfinite",
    ):  # fmt: skip
        del settings[later]
    del settings["guidance"]["losses"], settings["guidance"]["target_layer"]
    path.write_text(json.dumps(settings))
    assert train(config, tmp_path).kept
    other = dataclasses.replace(GUIDANCE, losses=("energy",))
    changed = dataclasses.replace(config, guidance=other, without="nose")
    with pytest.raises(
        ValueError, match=r"other settings \(guidance\.losses, hide_share, without\)"
    ):
        train(changed, tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"data": "nowhere"}, {"start": "nowhere.pt"}, {"attributes": ("Lipz",)}], ids=str
)
def test_a_run_that_never_began_holds_no_folder(
    data: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, FileNotFoundError)):
        train(dataclasses.replace(run_config(data, epochs=1), **wrong), tmp_path)
    assert train(run_config(data, epochs=1), tmp_path).epochs == 1


def test_a_run_goes_on_where_it_has_moved_with_its_data(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "a" / "faces", 48)
    train(run_config(data, epochs=1), tmp_path / "a" / "run")
    shutil.copytree(data, tmp_path / "faces")
    with pytest.raises(ValueError, match=r"holds a run with other settings \(data\)"):
        train(run_config(tmp_path / "faces", epochs=1), tmp_path / "a" / "run")
    (tmp_path / "a").rename(tmp_path / "b")
    assert train(run_config(tmp_path / "b" / "faces", epochs=1), tmp_path / "b" / "run").kept
    with pytest.raises(ValueError, match=r"holds a run with other settings \(data\)"):
        train(run_config(tmp_path / "faces", epochs=1), tmp_path / "b" / "run")


def test_another_start_or_other_labels_of_the_same_name_are_another_run(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "faces", 48)
    first = run_config(data, epochs=1)
    base = train(first, tmp_path / "base").checkpoint
    start = tmp_path / "start.pt"
    shutil.copy(base, start)
    tune = dataclasses.replace(first, start=str(start), seed=1)
    train(tune, tmp_path / "tuned")
    shutil.copy(train(dataclasses.replace(first, seed=2), tmp_path / "other").checkpoint, start)
    with pytest.raises(ValueError, match=r"other settings \(start_sha256\)"):
        train(tune, tmp_path / "tuned")
    start.unlink()  # not needed any more
    assert train(tune, tmp_path / "tuned").kept
    table = data / "list_attr_celeba.txt"
    table.write_text(table.read_text().replace("-1", " 1", 1))
    with pytest.raises(ValueError, match=r"other settings \(labels_sha256\)"):
        train(first, tmp_path / "base")


def test_the_same_files_by_another_path_are_the_same_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_config(data, epochs=1)
    start = train(first, tmp_path / "base").checkpoint
    tune = dataclasses.replace(first, start=str(start))
    train(tune, tmp_path / "tuned")
    monkeypatch.chdir(data)
    here = dataclasses.replace(tune, data="../" + data.name, start=os.path.relpath(start))
    assert train(here, tmp_path / "tuned").kept
    moved = shutil.move(tmp_path / "base", tmp_path / "elsewhere")
    there = dataclasses.replace(here, start=str(moved / "model.pt"))
    assert train(there, tmp_path / "tuned").kept
    other = shutil.copytree(data, tmp_path / "copy")  # whose images nobody compares
    with pytest.raises(ValueError, match=r"other settings \(data\);"):
        train(dataclasses.replace(there, data=str(other)), tmp_path / "tuned")


def test_other_landmarks_and_splits_are_another_run(tmp_path: Path) -> None:
    """Landmarks where regions matter; not to a run that noted none."""
    data = write_faces(tmp_path / "faces", 48)
    guided, hidden = (
        run_config(data, epochs=1, **c) for c in ({"guidance": GUIDANCE}, {"without": "nose"})
    )
    plain = run_config(data, epochs=1)
    for name, config in (("guided", guided), ("hidden", hidden), ("plain", plain)):
        train(config, tmp_path / name)
    shutil.copytree(tmp_path / "guided", tmp_path / "earlier")
    path = tmp_path / "earlier" / "settings.json"
    settings = json.loads(path.read_text())
    del settings["landmarks_sha256"], settings["partition_sha256"]
    path.write_text(json.dumps(settings))
    other = write_faces(tmp_path / "other", 48, seed=1)
    shutil.copy(other / "landmarks68.npz", data)
    for name, config in (("guided", guided), ("hidden", hidden)):
        with pytest.raises(
            ValueError, match=r"settings \(landmarks_sha256\): the data have changed since"
        ):
            train(config, tmp_path / name)
    assert train(plain, tmp_path / "plain").kept
    assert train(guided, tmp_path / "earlier").kept
    table = data / "list_eval_partition.txt"
    table.write_text(table.read_text().replace(".jpg 0", ".jpg 2", 1))
    with pytest.raises(ValueError, match=r"settings \(partition_sha256\): the data have"):
        train(plain, tmp_path / "plain")


def test_a_run_killed_after_its_last_epoch_is_over(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early stopping ended it; resumed, it trains no epoch more."""
    config = run_config(data, epochs=40, patience=2, lr=0.3)
    whole = train(config, tmp_path / "whole")

    def killed(*_: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr("fastcam.training.run.save_checkpoint", killed)
        with pytest.raises(_Killed):
            train(config, tmp_path / "killed")
    resumed = train(config, tmp_path / "killed")
    assert resumed.epochs == whole.epochs < 40
    assert same_weights(resumed.checkpoint, whole.checkpoint)


def test_a_run_whose_folder_was_moved_keeps_its_best_weights(data: Path, tmp_path: Path) -> None:
    config = run_config(data, epochs=40, patience=3, lr=0.3)
    whole = train(config, tmp_path / "whole")
    losses = [row["valid/loss"] for row in read_history(whole.history) if "valid/loss" in row]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert best + 1 < len(losses)

    def stop(what: str, *_: Any) -> None:
        if what.startswith(f"epoch {best + 2}"):
            raise _Killed

    with pytest.raises(_Killed):
        train(config, tmp_path / "run", progress=stop)
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = train(config, tmp_path / "moved")
    assert same_weights(moved.checkpoint, whole.checkpoint)
    assert moved.after == whole.after


def test_the_best_weights_are_found_by_lightning_s_name(tmp_path: Path) -> None:
    mine, theirs = (kind(tmp_path, monitor="a") for kind in (BestCheckpoint, ModelCheckpoint))
    assert mine.state_key == theirs.state_key


def test_a_state_is_saved_in_time_and_not_with_weights_that_are_no_numbers(tmp_path: Path) -> None:
    saved: list[Path] = []
    net: Any = torch.nn.BatchNorm2d(2)
    trainer: Any = SimpleNamespace(
        lightning_module=net, global_step=3, save_checkpoint=saved.append
    )
    history = History(tmp_path / "history.csv", lambda record: None)
    callback = ResumeCheckpoint(tmp_path / "resume", 5.0, history)
    callback._saved -= 200
    assert not callback._is_late()  # of five minutes
    callback._saved -= 100
    assert callback._is_late()
    callback._save(trainer)
    assert not callback._is_late()
    for name in ("running_var", "bias"):  # no gradient tells of a buffer
        with torch.no_grad():
            getattr(net, name)[1] = math.inf
        with pytest.raises(TrainingDiverged, match=rf"{name}\) are not finite after step 3"):
            callback._save(trainer)
    assert saved == [tmp_path / "resume"]


def test_a_run_goes_on_in_another_memory_format(data: Path, tmp_path: Path) -> None:
    """Fused SGD takes momenta as they lie in memory."""
    config = run_config(data, patience=0, model="small")
    whole = train(config, tmp_path / "whole")

    def stop(what: str, *_: Any) -> None:
        if what.startswith("epoch 2"):
            raise _Killed

    with pytest.raises(_Killed):
        train(config, tmp_path / "run", progress=stop)
    changed = train(dataclasses.replace(config, channels_last=True), tmp_path / "run")
    torch.testing.assert_close(
        weights_of(changed.checkpoint), weights_of(whole.checkpoint), rtol=1e-4, atol=1e-5
    )


def test_an_interrupted_run_says_so_and_goes_on(data: Path, tmp_path: Path) -> None:
    """Ctrl-C on the command line; a second one is refused while it runs."""
    out = tmp_path / "run"
    code = (
        "from fastcam.cli.program import main\n"
        f"sys.exit(main(['train', {str(data)!r}, '-o', out, '--model', {MODEL!r}, "
        "'--size', '32', '--epochs', '3', '--batch-size', '10', '--device', 'cpu']))"
    )
    process = until_saved(code, out)
    with pytest.raises(BlockingIOError, match=f"is being written by process {process.pid} on "):
        train(run_config(data, seed=2), out)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "fastcam: interrupted" in said and "Traceback" not in said
    assert not (out / "model.pt").exists()
    assert (out / "last.ckpt").is_file()


@pytest.fixture(scope="module")
def unfinished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that stopped after its first epoch, and its settings' data."""
    out = tmp_path_factory.mktemp("unfinished")

    def stop(what: str, *_: Any) -> None:
        if what.startswith("epoch 2"):
            raise _Killed

    with pytest.raises(_Killed):
        train(run_config(data), out, progress=stop)
    return out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:3000]), "is cut off or damaged"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("junk\n"), "is a text file"),
        (lambda p: p.write_bytes(bytes(5000)), "is no file of PyTorch"),
        (lambda p: torch.save(torch.nn.Linear(1, 1).state_dict(), p), "lacks pytorch-lightning_v"),
        (
            lambda p: torch.save({**torch.load(p), "state_dict": {}}, p),
            "is the state of another network",
        ),
        (lambda p: torch.save(torch.nn.Linear(1, 1), p), "holds Python objects"),
    ],
    ids=["cut", "empty", "text", "zeros", "weights", "another", "pickled"],
)
def test_a_damaged_resume_file_is_named_and_left(
    damage: Any, message: str, data: Path, unfinished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unfinished, out)
    damage(out / "last.ckpt")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(ValueError, match=rf"last\.ckpt {message}.*remove the file to train anew"):
        train(run_config(data), out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    (out / "last.ckpt").unlink()
    train(run_config(data, epochs=1), out)  # as it says; nothing binds to the old settings


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("settings.json", "{", r"settings\.json is no settings .* one; name another folder"),
        ("settings.json", "[]", r"settings\.json is no settings of a run"),
        ("settings.json", None, r"holds last\.ckpt without settings\.json"),
        ("history.csv", "a,b\n", r"history\.csv was not written by fastcam"),
    ],
)
def test_other_damaged_files_of_a_run_are_named(
    name: str, content: str | None, message: str, data: Path, unfinished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unfinished, out)
    (out / name).unlink() if content is None else (out / name).write_text(content)
    with pytest.raises((ValueError, FileExistsError), match=message):
        train(run_config(data), out)
