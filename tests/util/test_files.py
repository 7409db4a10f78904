"""Writing: whole or not at all, one run at a time, never over a file of somebody else's."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_faces import ATTRIBUTES, MODEL, TinyNet, write_faces

from fastcam import cli
from fastcam._util import files
from fastcam._util.claim import LOCK, InUseError, claim
from fastcam._util.files import WriteError, write_atomic, write_text
from fastcam._util.stop import Terminated, sigterm_raises
from fastcam.faces import generate
from fastcam.models import Checkpoint, save_checkpoint
from fastcam.models.checkpoint import Preprocessing
from fastcam.training import TrainConfig, train

FAST = ["--batch-size", "12", "--device", "cpu", "--workers", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = Checkpoint(TinyNet(3), MODEL, list(ATTRIBUTES), Preprocessing(32))
    return save_checkpoint(tmp_path_factory.mktemp("start") / "model.pt", checkpoint)


def _run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def _train(data: Path, out: Path, **changes: object) -> list[object]:
    options = {"model": MODEL, "size": 32, "epochs": 1, **changes}
    given = [x for k, v in options.items() for x in (f"--{k}", v)]
    return ["train", data, "-o", out, *given, *FAST]


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    assert said.startswith("fastcam: error: ") and said.count("\n") == 1, said
    assert "[Errno" not in said and "Traceback" not in said and "\033" not in said
    return said


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- whole or not at all --------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def half(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        write_atomic(path, half)
    assert _content(tmp_path) == {"a.txt": b"old"}


def test_text_of_any_bytes_is_written_and_read_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"lat\xefn")
    path = files.write_json(tmp_path / "a.json", {"data": name, "é": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"data": name, "é": 1}


def test_leftovers_of_killed_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    dead, alive = (tmp_path / f".fastcam-{n}-0.tmp" for n in (done.pid, os.getpid()))
    for path in (dead, alive, tmp_path / ".fastcam-x.tmp"):
        path.write_text("half")
    with claim(tmp_path):
        assert not dead.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.name, ".fastcam-x.tmp"])
    if sys.platform == "linux":  # a process of the same number, begun later: a container again
        os.utime(alive, (1e9, 1e9))
        with claim(tmp_path):
            assert not alive.exists()


def test_what_another_machine_is_writing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes of a cluster that write into one folder, whose numbers of processes are others."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()

    def meanwhile(file: BinaryIO) -> None:
        file.write(b"whole")
        with monkeypatch.context() as here:
            here.setattr(socket, "gethostname", lambda: "node-2.cluster")
            with claim(tmp_path / "b", folder=False):
                pass

    with monkeypatch.context() as there:
        there.setattr(os, "getpid", lambda: done.pid)
        write_atomic(tmp_path / "a", meanwhile)
    assert _content(tmp_path) == {"a": b"whole"}
    killed = tmp_path / f".fastcam-{done.pid}-0-node-2.cluster.tmp"
    killed.write_text("half")
    with claim(tmp_path):
        assert killed.exists()
        os.utime(killed, (1e9, 1e9))
    assert not killed.exists()


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"A FULL DISK IS NOT TESTED: no mount here ({error})")
    if done.returncode:
        pytest.skip(f"A FULL DISK IS NOT TESTED: {done.stderr.strip()} (needs to be root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with _mounted(tmp_path_factory.mktemp("small") / "disk", "size=256k") as folder:
        yield folder


def _fill(disk: Path, leave: int) -> Path:
    """A file that takes all room of the disk but so many bytes."""
    stat = os.statvfs(disk)
    path = disk / "filler"
    path.write_bytes(bytes(max(0, stat.f_bavail * stat.f_frsize - leave)))
    return path


@pytest.mark.parametrize("leave", [0, 4096, 12 * 1024])
@pytest.mark.parametrize("verb", ["train", "explain", "evaluate", "synth", "curves"])
def test_a_full_disk_is_one_line_and_takes_nothing(
    verb: str, leave: int, data: Path, model: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small / "out"
    out.mkdir()
    place: Path = out if verb in ("train", "synth") else out / "e"
    arguments: dict[str, list[object]] = {
        "train": [*_train(data, place)],
        "explain": ["explain", model, data / "img_align_celeba" / "000001.jpg", "-a", "Lips",
                    "-o", f"{place}.png"],
        "evaluate": ["evaluate", model, data, "-a", "Lips", "-o", place, *FAST],
        "synth": ["synth", place, "-n", 6, "--workers", 1],
        "curves": ["attention", "curves", "-o", place],
    }  # fmt: skip
    filler = _fill(small, leave)
    try:
        status = _run(*arguments[verb])
        if status == 0:  # it needed less than was left
            assert leave and verb == "evaluate"
            return
        said = _one_line(capsys)
        assert status == 2
        assert "No space left on device" in said and str(out) in said
        assert not [p for p in out.rglob("*") if p.name.startswith(".")]
    finally:
        filler.unlink()
        for path in sorted(small.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()


def test_a_disk_that_fills_up_keeps_what_was_saved(
    data: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each write of a training in turn; with room again, it ends as if nothing had been."""
    config = TrainConfig(
        str(data), model=MODEL, size=32, epochs=2, patience=1, batch_size=12, device="cpu",
        workers=1,
    )  # fmt: skip
    whole = torch.load(train(config, small / "whole").checkpoint, weights_only=True)["state_dict"]
    for path in (small / "whole").iterdir():
        path.unlink()
    (small / "whole").rmdir()
    real, failed = os.replace, []
    run = small / "run"

    def filled(number: int) -> Callable[..., None]:
        count = 0

        def replace(source: str, target: str) -> None:
            nonlocal count
            real(source, target)
            count += 1
            if count == number:
                _fill(small, 0)

        return replace

    for number in range(1, 40):
        monkeypatch.setattr(os, "replace", filled(number))
        try:
            result = train(config, run)
        except WriteError as error:
            failed.append(Path(str(error).split()[2].rstrip(":")).name)
            (small / "filler").unlink(missing_ok=True)
            assert not [p for p in run.iterdir() if p.name.startswith(".")]
            for path in run.glob("*.ckpt"):
                torch.load(path, weights_only=True)
            for path in run.iterdir():  # from the beginning, to come one write further
                path.unlink()
        else:
            break
    assert {"history.csv", "last.ckpt", "best.ckpt", "model.pt", "result.json"} <= set(failed)
    (small / "filler").unlink(missing_ok=True)
    found = torch.load(result.checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(found[k], v) for k, v in whole.items())
    for path in run.iterdir():
        path.unlink()
    run.rmdir()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.parametrize(
    ("leave", "kept"),
    [(0, set()), (40 * 1024, {"settings.json", "history.csv", "best.ckpt"})],
    ids=["at once", "at last.ckpt"],
)
def test_a_full_disk_ends_all_processes_of_a_training_with_one_line(
    leave: int, kept: set[str], data: Path, small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before the first step, and at a save after one; with room again, the same call ends."""
    out = small / "run"
    command = [*_train(data, out, devices=2, epochs=2), "--patience", 3]
    filler = _fill(small, leave)
    try:
        assert _run(*command) == 2
        said = capfd.readouterr().err
        assert said.count("No space left on device") == 1 and str(out) in said
        assert "Traceback" not in said and said.splitlines()[-1].startswith("fastcam: error: ")
        assert {p.name for p in out.rglob("*")} == kept
        filler.unlink()
        assert _run(*command) == 0
        assert (out / "model.pt").is_file()
    finally:
        filler.unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)


def test_a_read_only_place_is_one_line(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished run in such a place can still be asked for."""
    with _mounted(tmp_path / "disk", "size=1m") as disk:
        assert _run(*_train(data, disk / "run")) == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        capsys.readouterr()
        assert _run(*_train(data, disk / "run")) == 0
        assert "finished earlier, kept" in capsys.readouterr().out
        picture = data / "img_align_celeba" / "000001.jpg"
        for arguments in (
            _train(data, disk / "run2"),
            ["synth", disk / "new" / "faces", "-n", 2],
            ["explain", model, picture, "-a", "Lips", "-o", disk / "e.png"],
            ["evaluate", model, data, "-a", "Lips", "-o", disk / "e", *FAST],
            ["attention", "curves", "-o", disk / "c"],
            ["demo", "-o", disk / "demo"],
        ):
            assert _run(*arguments) == 2
            said = _one_line(capsys)
            assert "Read-only file system" in said and str(disk) in said


# --- one at a time --------------------------------------------------------------------------------


def test_a_place_is_held_by_one_and_says_by_whom(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    with claim(out):
        assert (out / LOCK).is_file()
        with pytest.raises(InUseError, match=rf"run is being written by process {os.getpid()} on "):
            claim(out).__enter__()
        with claim(out / "file", folder=False), claim(tmp_path / "new"):  # other places
            pass
    assert not list(tmp_path.iterdir())  # neither the lock nor folders made for it are left
    with pytest.raises(ValueError, match="mine"), claim(out):
        raise ValueError("mine")
    with claim(out):
        (out / "result").write_text("1")
    assert _content(tmp_path) == {"new/run/result": b"1"}


def test_every_verb_that_writes_is_refused_where_another_writes(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, prefix = tmp_path / "run", tmp_path / "e"
    picture = data / "img_align_celeba" / "000001.jpg"
    start = ["finetune", model, data, "-a", "Lips", "-r", "mouth", "-o", run]
    with claim(run):
        for arguments in (
            _train(data, run), start, ["synth", run, "-n", 2], ["demo", "-o", run],
            ["demo", "-o", run, "--fresh"], ["attention", "demo", "-o", run],
        ):  # fmt: skip
            assert _run(*arguments) == 2
            assert f"{run} is being written by process {os.getpid()} on " in _one_line(capsys)
    with claim(prefix, folder=False):
        for arguments in (
            ["evaluate", model, data, "-a", "Lips", "-o", prefix],
            ["attention", "curves", "-o", prefix],
            ["attention", "ablation", data, "-o", prefix],
        ):
            assert _run(*arguments) == 2
            assert f"{prefix} is being written by process {os.getpid()} on " in _one_line(capsys)
    for place, arguments in (
        (tmp_path / "e.png", ["explain", model, picture, "-a", "Lips", "-o", tmp_path / "e.png"]),
        (data / "landmarks68.npz", ["landmarks", data]),
    ):
        with claim(place, folder=False):
            assert _run(*arguments) == 2
            assert "is being written by process" in _one_line(capsys)


HOLD = (
    "import sys\n"
    "from fastcam._util.claim import claim\n"
    "with claim(sys.argv[1]):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_another_process_is_named_and_holds_nothing_once_it_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InUseError, match=rf"by process {process.pid} on .* \(-c "):
            claim(tmp_path).__enter__()
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / LOCK).exists()
    with claim(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_a_killed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / LOCK).write_text("process 1 on another machine")  # was killed
    with (
        pytest.warns(UserWarning, match=f"file system of {tmp_path} has no locks"),
        claim(tmp_path),
    ):
        assert f"process {os.getpid()} on " in (tmp_path / LOCK).read_text()
    assert not list(tmp_path.iterdir())


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def other() -> None:
        try:
            with claim(tmp_path):
                pass
        except InUseError as error:
            failures.append(error)

    with claim(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(failures) == 1


# --- files of others ------------------------------------------------------------------------------

RUN_FILES = ("model.pt", "history.csv", "settings.json", "result.json", "best.ckpt", "last.ckpt")


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_training_leaves_the_files_of_others(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine\n")
    assert _run(*_train(data, tmp_path)) == 2
    assert str(tmp_path) in _one_line(capsys)
    assert _content(tmp_path) == {name: b"mine\n"}


def test_pictures_and_tables_of_others_are_left(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = data / "img_align_celeba" / "000001.jpg"
    before = picture.read_bytes()
    Image.new("RGB", (4, 4)).save(tmp_path / "e.png")
    (tmp_path / "e.md").write_text("# fastcam\n\n| a |\n")
    (tmp_path / "f.json").write_text('{"model": {}}')
    (tmp_path / "points.npz").write_bytes(b"mine")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    mine = _content(tmp_path)
    for arguments in (
        ["explain", model, picture, "-a", "Lips", "-o", picture],
        ["explain", model, picture, "-a", "Lips", "-o", tmp_path / "e.png"],
        ["evaluate", model, data, "-a", "Lips", "-o", tmp_path / "e", *FAST],
        ["evaluate", model, data, "-a", "Lips", "-o", tmp_path / "f", *FAST],
        ["attention", "curves", "-o", tmp_path / "e"],
    ):
        assert _run(*arguments) == 2
        assert "was not written by fastcam and is left as it is" in _one_line(capsys)
    for name in ("points.npz", "other.npz"):
        assert _run("landmarks", data, "-o", tmp_path / name) == 2
        assert name in _one_line(capsys)
    assert _content(tmp_path) == mine
    assert picture.read_bytes() == before


@pytest.mark.parametrize("name", ["list_eval_partition.txt", "landmarks68.npz", "synthetic.json"])
def test_drawn_faces_leave_the_tables_of_others(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=name):
        generate(tmp_path, 2, workers=1)
    assert _content(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".svg", ".pdf"])
def test_a_picture_is_written_as_its_name_says_and_over_its_like(
    suffix: str, data: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"e{suffix}"
    picture = data / "img_align_celeba" / "000001.jpg"
    arguments = ["explain", model, picture, "-a", "Lips", "-o", out]
    assert _run(*arguments) == 0
    first = out.read_bytes()
    beginning = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}.get(suffix, b"\xff\xd8")
    assert first.startswith(beginning)
    assert _run(*arguments) == 0
    assert out.read_bytes() == first
    with out.open("r+b") as file:  # somebody else's from now on
        file.write(first.replace(files.MARK.encode(), b"x" * len(files.MARK)))
    assert _run(*arguments) == 2


@pytest.mark.parametrize("name", ["e.gif", "e", "e.png.bak"])
def test_another_suffix_is_refused_before_the_work(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("explain", "none.pt", "none.jpg", "-a", "Lips", "-o", tmp_path / name) == 2
    assert f"expected a file name ending in .png, .jpg, .jpeg, .svg, .pdf, got '{tmp_path}" in (
        _one_line(capsys)
    )


def test_devices_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="is no regular file"):
        write_text(tmp_path / "pipe", "text")
    assert not (tmp_path / "pipe").is_file()


def test_a_signal_in_the_midst_of_a_file_is_raised_behind_it(tmp_path: Path) -> None:
    """torch.save would make another error of what is raised while it writes."""

    class Killed:
        """Writes, and is sent a signal meanwhile."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            if len(data) == 4000:  # the tensor
                os.kill(os.getpid(), signal.SIGTERM)
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    path = tmp_path / "state.pt"
    with pytest.raises(Terminated), sigterm_raises():
        write_atomic(path, lambda file: torch.save(torch.zeros(1000), Killed(file)))
    assert list(tmp_path.iterdir()) == []
