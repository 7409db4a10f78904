"""Jobs: their state is on disk, and what becomes of them when their process is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastcam.studio import worker
from fastcam.studio.home import new_id
from fastcam.studio.jobs import Job, State, Status, own_process
from fastcam.studio.queues import InTurn
from fastcam.studio.worker import Progress


def test_a_folder_holds_one_job(tmp_path: Path) -> None:
    job = Job.make(tmp_path / "job", "look", {"a": 1})
    assert job.state().status == "waiting" and job.state().process is None
    assert Job.make(tmp_path / "job", "look", {"a": 1}).content() == job.content()
    with pytest.raises(ValueError, match="another job"):
        Job.make(tmp_path / "job", "look", {"a": 2})


def test_progress_is_written_and_read_by_others(tmp_path: Path) -> None:
    job = Job.make(tmp_path / "job", "look", {})
    progress = Progress(job)
    progress.stage("reading", 2, 4)
    progress("images", 0, 10)
    time.sleep(0.02)
    progress("images", 5, 10, "fine")
    progress("images", 10, 10)
    state = Job(job.folder).state()
    assert (state.stage, state.done, state.total, state.status) == ("reading", 10, 10, "running")
    assert state.share == pytest.approx(0.5)
    assert progress.state.left == 0
    progress.end("failed", "no such thing")
    assert Job(job.folder).state().message == "no such thing"
    assert Job(job.folder).state().process is None


def test_a_process_that_is_gone_without_a_word_has_failed(tmp_path: Path) -> None:
    job = Job.make(tmp_path / "job", "look", {})
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (job.folder / "log.txt").write_text("Traceback\nMemoryError: 5 GB\n")
    job.write(State(status="running", stage="at work", process=(gone.pid, 1)))
    state = job.state()
    assert state.status == "failed" and "MemoryError: 5 GB" in state.message
    # A number that was given to another process since is not that process.
    job.write(State(status="running", process=(os.getpid(), 1)))
    assert job.state().status == "failed"
    job.write(State(status="running", process=own_process()))
    assert job.state().status == "running"
    # One that was asked to stop, and was ended before it could say so.
    job.write(State(status="running", process=(gone.pid, 1)))
    for wish, status in (("pause", "paused"), ("cancel", "cancelled"), ("go", "failed")):
        (job.folder / "wish.json").write_text(json.dumps({"wish": wish}))
        assert job.state().status == status


def test_as_many_as_may_run_and_the_others_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Job, "start", lambda job: job.write(State(status="running", process=own_process()))
    )
    queue = InTurn(tmp_path, most=1)
    jobs = [Job.make(tmp_path / new_id() / "jobs" / new_id(), "tune", {}) for _ in range(2)]
    jobs[1].write(State(status="paused", seconds=60))
    for job in jobs:
        queue.submit(job)
    queue.tick()
    assert [job.state().status for job in jobs] == ["running", "waiting"]
    assert jobs[1].state().seconds == 60  # that it ran before it was paused
    jobs[0].write(State(status="done"))
    queue.tick()
    assert [job.state().status for job in jobs] == ["done", "running"]


def test_cancelled_before_it_began(tmp_path: Path) -> None:
    job = Job.make(tmp_path / "job", "look", {})
    job.write(State(status="waiting", stage="waiting for the work of others"))
    job.cancel()
    assert job.state().status == "cancelled"


@pytest.mark.parametrize("status", ["paused", "failed"])
def test_cancelled_when_it_stands_still_it_leaves_nothing(tmp_path: Path, status: Status) -> None:
    job = Job.make(tmp_path / "job", "tune", {})
    job.write(State(status=status))
    (job.folder / "after").mkdir()
    (job.folder / "after" / "model.pt").write_bytes(b"x")
    job.cancel()
    assert job.state().status == "cancelled" and job.content()["kind"] == "tune"
    assert {p.name for p in job.folder.iterdir()} == {"job.json", "state.json", "wish.json"}


def test_what_is_done_cannot_be_cancelled(tmp_path: Path) -> None:
    job = Job.make(tmp_path / "job", "tune", {})
    (job.folder / "after").mkdir()
    job.write(State(status="done"))
    job.cancel()  # by a page that has not seen it yet
    assert job.state().status == "done" and (job.folder / "after").is_dir()


def test_an_error_is_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = {
        "checkpoint": str(tmp_path / "no.pt"), "data": str(tmp_path), "attribute": "a",
        "images": 1, "hidden": 1,
    }  # fmt: skip
    job = Job.make(tmp_path / "job", "look", arguments)
    assert worker.main(str(job.folder)) == 1
    state = job.state()
    assert state.status == "failed" and state.message.endswith("no.pt does not exist")
    assert "Traceback" in capfd.readouterr().err  # in its log
    assert json.loads((job.folder / "state.json").read_text())["process"] is None


def test_a_wish_that_came_early_is_heard(tmp_path: Path) -> None:
    job = Job.make(tmp_path / "job", "look", {})
    job.write(State(status="running", process=own_process()))
    (job.folder / "wish.json").write_text('{"wish": "cancel"}')
    (job.folder / "left.over").write_text("x")
    assert worker.main(str(job.folder)) == 0
    assert job.state().status == "cancelled"
    assert not (job.folder / "left.over").exists()
