"""Trainings that are asked to end, or whose batches have no finite gradient."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from device_worker import NormedNet, nan_once
from tiny_faces import MODEL, write_faces
from tiny_runs import run_config, same_weights, until_saved, weights_of
from torch import Tensor
from torch.nn import functional as nnf

from fastcam import cli, models
from fastcam._util.stop import Terminated
from fastcam.training import GuidanceConfig, TrainingDiverged, train
from fastcam.training.history import read_history
from fastcam.training.nonfinite import MOST_SKIPPED
from fastcam.training.run_folder import RESUME, is_result
from fastcam.training.task import AttributeTask

GUIDANCE = GuidanceConfig((("Lips", "mouth"),), losses=("iou",), pull=1.0)
LINE = "fastcam: ended by SIGTERM; what is saved so far is kept\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 96)


def _asked_in(step: int, monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Send a signal within a step; the steps that are taken."""
    taken: list[int] = []
    kept = AttributeTask.training_step

    def asks(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor:
        taken.append(self.trainer.global_step)
        if self.trainer.global_step == step and self.trainer.is_global_zero:
            os.kill(os.getpid(), number)
        return kept(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", asks)
    return taken


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("step", [2, 4], ids=["in an epoch", "in its last step"])
def test_what_is_asked_to_end_saves_and_goes_on_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, devices: int,
    step: int,
) -> None:  # fmt: skip
    if devices == 2 and step == 4:
        pytest.skip("as in an epoch")
    config = run_config(data, guidance=GUIDANCE, epochs=2, clip=1.0, devices=devices)
    whole = train(config, tmp_path / "whole")
    before = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            taken = _asked_in(step, patch, number)
            with pytest.raises(Terminated if number == signal.SIGTERM else KeyboardInterrupt):
                train(config, tmp_path / "run")
        assert taken == list(range(step + 1))
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    state = torch.load(tmp_path / "run" / RESUME, weights_only=True)
    assert state["global_step"] == step + 1  # nothing is lost
    again = train(config, tmp_path / "run")
    assert same_weights(again.checkpoint, whole.checkpoint)
    assert read_history(again.history) == read_history(whole.history)


def test_sigterm_is_one_line_and_143_also_in_a_step_that_takes_long(
    data: Path, tmp_path: Path
) -> None:
    code = (
        "from fastcam.cli.program import main\n"
        f"sys.exit(main(['train', {str(data)!r}, '-o', out, '--model', {MODEL!r}, "
        "'--size', '32', '--epochs', '3', '--batch-size', '10', '--device', 'cpu']))"
    )
    process = until_saved(code, tmp_path / "run")  # stands still within a step
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said == LINE
    assert (tmp_path / "run" / RESUME).is_file()


def test_what_a_kill_at_the_very_end_left_is_removed(data: Path, tmp_path: Path) -> None:
    config = run_config(data, epochs=1)
    first = train(config, tmp_path)
    kept = sorted(path.name for path in tmp_path.iterdir())
    state = {"pytorch-lightning_version": "2", "state_dict": {}}
    torch.save(state, tmp_path / "last.ckpt")
    (tmp_path / ".fastcam.lock").write_text("process 1")
    (tmp_path / ".fastcam-999999999-0.tmp").write_text("half")
    (tmp_path / "best.ckpt").write_text("somebody else's")
    assert train(config, tmp_path).kept
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "best.ckpt"])
    assert first.checkpoint.is_file()


models.register("normed-nan", models.ModelSpec(NormedNet, "features.2"))


class _Loss:
    """NaN in some of its calls; keeps the weights that each call finds."""

    def __init__(self, *bad: int) -> None:
        self.bad, self.calls = bad, 0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        value = nnf.binary_cross_entropy_with_logits(logits, labels)
        self.calls += 1
        return value * float("nan") if self.calls - 1 in self.bad else value


def _poisoned(monkeypatch: pytest.MonkeyPatch, step: int) -> list[dict[str, Tensor]]:
    """NaN in the images of a step; the model's state before each step."""
    states: list[dict[str, Tensor]] = []
    kept = AttributeTask.training_step

    def poisons(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor:
        states.append({k: v.clone() for k, v in self.model.state_dict().items()})
        if self.trainer.global_step == step:
            batch = {**batch, "image": batch["image"].float() * float("nan")}
        return kept(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", poisons)
    return states


@pytest.mark.parametrize(("model", "accumulate"), [(MODEL, 1), ("normed-nan", 1), (MODEL, 2)])
def test_a_batch_without_a_finite_gradient_is_skipped_and_counted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str,
    accumulate: int,
) -> None:  # fmt: skip
    config = run_config(
        data, model=model, epochs=2, momentum=0.9, nonfinite="skip", accumulate=accumulate
    )
    with monkeypatch.context() as patch:
        states = _poisoned(patch, 3)
        found = train(config, tmp_path / "run")
    assert found.skipped == 1 and len(states) == 10
    for step in range(9):
        same = all(torch.equal(v, states[step + 1][k]) for k, v in states[step].items())
        assert same == (step == 3)  # neither weights nor statistics have moved
    records = [r for r in read_history(found.history) if "train/loss" in r]
    assert [r["train/skipped"] for r in records] == [0.0] * 3 + [1.0] + [0.0] * 6
    assert all(value.isfinite().all() for value in weights_of(found.checkpoint).values())
    assert is_result(tmp_path / "run" / "result.json")
    again = train(config, tmp_path / "run")
    assert again.kept and again.skipped == 1


def test_without_the_option_it_ends_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _poisoned(monkeypatch, 3)
    arguments = ["train", data, "-o", tmp_path / "a", "--model", MODEL, "--size", 32, "--epochs", 1,
                 "--batch-size", 10, "--device", "cpu", "--workers", 1]  # fmt: skip
    assert cli.main([str(a) for a in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "the attribute loss became nan in step 4 of 5" in said
    assert "diverged" in json.loads((tmp_path / "a" / "result.json").read_text())
    arguments[3] = tmp_path / "b"
    assert cli.main([*(str(a) for a in arguments), "--nonfinite", "skip"]) == 0
    assert "skipped: 1 batch(es) whose gradient is NaN or infinite" in capsys.readouterr().out


def test_many_skipped_in_a_row_end_the_run(data: Path, tmp_path: Path) -> None:
    config = run_config(data, epochs=4, nonfinite="skip")
    words = rf"in step {MOST_SKIPPED + 1} of 20, as in the {MOST_SKIPPED - 1} skipped ones before"
    with pytest.raises(TrainingDiverged, match=words):
        train(config, tmp_path, loss=_Loss(*range(1, 30)))
    few = train(config, tmp_path / "few", loss=_Loss(*range(1, MOST_SKIPPED)))
    assert few.skipped == MOST_SKIPPED - 1


def test_without_a_bad_batch_the_option_changes_nothing(data: Path, tmp_path: Path) -> None:
    plain = train(run_config(data, epochs=1, guidance=GUIDANCE), tmp_path / "plain")
    skip = train(run_config(data, epochs=1, guidance=GUIDANCE, nonfinite="skip"), tmp_path / "skip")
    assert same_weights(plain.checkpoint, skip.checkpoint) and skip.skipped == 0


def test_two_processes_skip_together_as_one_does(data: Path, tmp_path: Path) -> None:
    """The NaN is in the second one's share."""
    config = run_config(data, epochs=2, batch_size=22, momentum=0.9, nonfinite="skip")
    two = train(dataclasses.replace(config, devices=2), tmp_path / "two", loss=nan_once)
    one = train(config, tmp_path / "one", loss=_Loss(1))
    assert two.skipped == one.skipped == 1
    torch.testing.assert_close(
        weights_of(two.checkpoint), weights_of(one.checkpoint), rtol=1e-4, atol=1e-6
    )
    found, wanted = read_history(two.history), read_history(one.history)
    assert len(found) == len(wanted)
    for record, other in zip(found, wanted, strict=True):
        assert record == pytest.approx(other, rel=1e-4, abs=1e-5, nan_ok=True)
