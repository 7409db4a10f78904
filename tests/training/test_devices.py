"""A run on several devices is that on one, and ends with each of its processes.

The devices are processes that speak through Gloo.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from device_worker import (
    LateNet,
    MortalNet,
    NormedNet,
    deadly_loss,
    ending_loss,
    failing_loss,
    validate_alone,
    wrong_loss,
)
from lightning.pytorch.trainer.connectors import accelerator_connector
from process_group import run_and_leave
from tiny_faces import write_faces
from tiny_runs import assert_same, run_config, until_saved, weights_of
from torch.nn import functional as nnf
from torch.utils.data import BatchSampler

from fastcam import cli, models
from fastcam.data.batches import EpochBatches, loader
from fastcam.evaluation.splits import inputs_of, prepare_split
from fastcam.training import Batches, GuidanceConfig, TrainConfig, TrainResult, train
from fastcam.training.history import read_history
from fastcam.training.processes import ProcessEndedError
from fastcam.training.task import AttributeTask

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)
GUIDANCE = GuidanceConfig(
    (("Lips", "mouth"), ("Eyes", "left_eye,right_eye")),
    losses=("iou", "energy"),
    pull=1.0,
    sharpness=4.0,
)
# 45 training images: three batches of 15 would leave none out, 22 leave one, which one has.
SETTINGS: dict[str, Any] = {"batch_size": 22, "epochs": 3, "clip": 5.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 90)


@pytest.fixture(scope="module")
def config(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    base = train(run_config(data, epochs=2), tmp_path_factory.mktemp("base")).checkpoint
    return run_config(data, start=str(base), guidance=GUIDANCE, patience=2, **SETTINGS)


@pytest.fixture(scope="module")
def one(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(config, tmp_path_factory.mktemp("one"))


def on(config: TrainConfig, devices: int, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, devices=devices, **changes)


def test_a_guided_fine_tuning_is_that_of_one_process(
    config: TrainConfig, one: TrainResult, tmp_path: Path
) -> None:
    """With dropout, augmentation, an empty last batch in one process, and the best epoch kept."""
    said: list[str] = []
    environment, threads = dict(os.environ), torch.get_num_threads()
    two = train(on(config, 2), tmp_path, progress=lambda what, *_: said.append(what))
    assert_same(two, one)
    assert one.biases and "epoch 1 of 3" in said
    files = {p.name for p in tmp_path.iterdir()}
    assert files == {"model.pt", "history.csv", "settings.json", "result.json"}
    assert (tmp_path / "settings.json").read_text() == (
        one.checkpoint.parent / "settings.json"
    ).read_text()
    assert (dict(os.environ), torch.get_num_threads()) == (environment, threads)
    assert not torch.distributed.is_initialized()
    assert train(config, tmp_path).kept  # whatever the devices


def test_a_killed_run_goes_on_in_one_process(
    config: TrainConfig, one: TrainResult, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code = (
        "from tiny_runs import run_config\n"
        "from pathlib import Path\n"
        "from fastcam.training import GuidanceConfig\n"
        f"guidance = {GUIDANCE!r}\n"
        "if __name__ == '__main__':\n"
        f"    train(run_config(Path({config.data!r}), start={config.start!r}, guidance=guidance,"
        f" patience=2, devices=2, save_minutes=0.0, **{SETTINGS!r}), out)\n"
    )
    process = until_saved(code, out)
    others = _children(process.pid)
    assert len(others) >= 1
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (out / "last.ckpt").is_file() and not (out / "model.pt").exists()
    assert_same(train(config, out), one)
    assert not any(_alive(pid) for pid in others)


def test_a_run_goes_on_in_more_processes(
    config: TrainConfig, one: TrainResult, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(what: str, *_: Any) -> None:
        if what.startswith("epoch 2"):
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path, progress=stop)
    assert_same(train(on(config, 2), tmp_path), one)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()]


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (deadly_loss, ChildProcessError, r"process 2 of 2 ended \(signal 9: killed.*goes on"),
        (wrong_loss, ProcessEndedError, r"process 2 of 2 ended \(ValueError: no such loss\)"),
        (failing_loss, RuntimeError, "^out of order$"),
    ],
)
def test_a_process_that_ends_is_named(
    data: Path, tmp_path: Path, loss: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(run_config(data, devices=2), tmp_path / "run", loss=loss)
    assert not (tmp_path / "run").exists() or not (tmp_path / "run" / "model.pt").exists()
    assert not torch.distributed.is_initialized()


def test_the_others_leave_without_the_end_of_their_interpreters(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In which a late thread of Gloo aborts the process: some 1 of 8 on a busy machine."""
    monkeypatch.setenv("FASTCAM_TEST_ENDS", str(tmp_path / "ended"))
    train(on(config, 2, epochs=1), tmp_path / "run", loss=ending_loss)
    assert not (tmp_path / "ended").exists()


def test_the_best_weights_are_there_until_all_have_read_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.ModelSpec(LateNet, "features.3", "features.4", logit_bias="classifier.3.bias")
    models.register("late", spec)
    monkeypatch.setenv("FASTCAM_TEST_LATE", str(tmp_path / "run" / "best.ckpt"))
    config = run_config(data, model="late", devices=2, epochs=1, patience=1)
    train(config, tmp_path / "run")
    assert (tmp_path / "run" / "read").is_file()
    assert not (tmp_path / "run" / "best.ckpt").exists()


def test_a_process_that_is_killed_is_one_line_and_the_same_command_goes_on(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Killed in the second of three epochs, after the first has been saved."""
    spec = models.ModelSpec(MortalNet, "features.3", "features.4", logit_bias="classifier.3.bias")
    models.register("mortal", spec)
    out = tmp_path / "run"
    arguments = [
        "train", str(data), "-o", str(out), "--model", "mortal", "--size", "32", "--epochs", "3",
        "--batch-size", "22", "--device", "cpu", "--devices", "2",
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setenv("FASTCAM_TEST_DIES", str(out / "last.ckpt"))
        assert cli.main(arguments) == 2
    said = capfd.readouterr().err
    assert re.fullmatch(r"fastcam: error: process 2 of 2 ended \(signal 9: killed.*\n", said), said
    left = {p.name for p in out.iterdir()}
    assert left - {"best.ckpt"} == {"history.csv", "last.ckpt", "settings.json"}
    steps = torch.load(out / "last.ckpt", weights_only=True)["global_step"]
    assert steps == 3  # of the first epoch
    taken = []
    kept = AttributeTask.training_step

    def counts(self: AttributeTask, batch: Any, batch_idx: int) -> Any:
        taken.append(self.trainer.global_step)
        return kept(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", counts)
    assert cli.main(arguments) == 0
    assert taken == list(range(steps, 9))
    arguments[3:4], arguments[-2:] = [str(tmp_path / "whole")], []
    assert cli.main(arguments) == 0
    torch.testing.assert_close(
        weights_of(out / "model.pt"), weights_of(tmp_path / "whole" / "model.pt"),
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip


def test_the_command_line_takes_devices_and_warns_of_batch_norm(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty share leaves batch norm's statistics finite."""
    models.register("normed", models.ModelSpec(NormedNet, "features.2"))
    code = cli.main(
        ["train", str(data), "-o", str(tmp_path), "--model", "normed", "--size", "32",
         "--epochs", "1", "--batch-size", "22", "--device", "cpu", "--devices", "2"]
    )  # fmt: skip
    assert code == 0
    said = capsys.readouterr()
    assert "after 1 epoch(s)" in said.out
    assert said.err.count("batch norm ('features.1' and others)") == 1
    assert all(value.isfinite().all() for value in weights_of(tmp_path / "model.pt").values())


def test_the_validation_of_parts_over_processes_is_that_of_the_saved_network(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm's statistics are the first process's, also where each batch is taken in parts."""
    models.register("normed", models.ModelSpec(NormedNet, "features.2"))
    config = run_config(data, model="normed", epochs=1, batch_size=22, devices=2, accumulate=2)
    # As in a notebook, in which Lightning would not start processes of its own.
    monkeypatch.setattr(accelerator_connector, "_IS_INTERACTIVE", True)
    with pytest.warns(UserWarning, match="batch norm"):
        run = train(config, tmp_path)
    checkpoint = models.load_checkpoint(run.checkpoint)
    faces = prepare_split(checkpoint, data, "valid")
    batch = loader(faces, BatchSampler(range(len(faces)), len(faces), drop_last=False))
    ((images, labels),) = [inputs_of(checkpoint, b) for b in batch]
    with torch.no_grad():
        loss = nnf.binary_cross_entropy_with_logits(checkpoint.model.eval()(images), labels)
    (found,) = [r["valid/loss"] for r in read_history(run.history) if "valid/loss" in r]
    assert found == pytest.approx(float(loss), rel=1e-5)


def test_what_cannot_be_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(data, devices=2)
    batches = Batches([], [], ["Lips"])
    with pytest.raises(ValueError, match="data: batches of your own .* Trainer of your own"):
        train(config, tmp_path, data=batches)
    with pytest.raises(ValueError, match="nodes: expected 1 without torchrun, got 3; .*--nnodes 3"):
        train(run_config(data, nodes=3), tmp_path)
    with pytest.raises(ValueError, match="devices: 2 processes need a loss .* can be sent"):
        train(config, tmp_path, loss=lambda logits, labels: logits.sum())
    for values in ({"devices": 0}, {"nodes": 0}):
        with pytest.raises(ValueError, match="a whole number of at least 1, got 0"):
            run_config(data, **values)
    started = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="expected 2 and 2, as torchrun .* got 3 and 1"):
        train(run_config(data, devices=3), tmp_path)
    assert not any(tmp_path.iterdir())


def test_shares_are_the_batch_of_one_without_duplicates() -> None:
    whole = list(EpochBatches(23, 5, seed=1, epoch=2))
    for count in (2, 3, 7):
        parts = [list(EpochBatches(23, 5, seed=1, epoch=2, share=(r, count))) for r in range(count)]
        assert all(len(part) == len(whole) for part in parts)
        for number, batch in enumerate(whole):
            # As dropout takes its rows of the whole batch's mask.
            assert [part[number] for part in parts] == [batch[r::count] for r in range(count)]
    assert list(EpochBatches(5, 2, seed=None)) == [[0, 1], [2, 3], [4]]


def test_one_process_validates_alone(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_and_leave, (validate_alone, str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "found.pt")
    assert 0 <= found["valid/accuracy"] <= 1 and found["valid/loss"] > 0


@pytest.mark.slow
@pytest.mark.long
def test_torchrun_starts_a_run_on_two_nodes(data: Path, tmp_path: Path) -> None:
    """As torchrun does on each of two machines, with one process."""
    whole = train(run_config(data, epochs=1, batch_size=22), tmp_path / "whole")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = Path(__file__).parents[1] / "support" / "device_worker.py"
    started = []
    for node in range(2):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
            "--node-rank", str(node), "--nproc-per-node", "1", "--master-addr", "127.0.0.1",
            "--master-port", str(port), str(worker), str(data), str(tmp_path / "run"),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
    said = [process.communicate(timeout=300) for process in started]
    for node, (out, err) in enumerate(said):
        assert f"rank {node}: 1 True" in out, err
    torch.testing.assert_close(
        weights_of(tmp_path / "run" / "model.pt"),
        weights_of(whole.checkpoint),
        rtol=1e-4,
        atol=1e-6,
    )
