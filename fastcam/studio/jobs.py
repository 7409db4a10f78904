"""Long work: a folder with what is to be done and how far it is, and a process that does it.

Whoever reads the folder knows the job: the page that started it, another tab, a server that was
started since. ``job.json`` says what is to be done and never changes, ``state.json`` how far it is
(written by the process alone, but for its end), ``wish.json`` what was last asked for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fastcam._util.claim import LOCK
from fastcam._util.files import json_with, make_folder, read_json, write_json

Status = Literal["waiting", "running", "paused", "done", "failed", "cancelled"]
#: Of a job that goes on by itself.
ACTIVE: tuple[Status, ...] = ("waiting", "running")
JOB, STATE, WISH, LOG = "job.json", "state.json", "wish.json", "log.txt"
_KEPT = (JOB, STATE, WISH, LOG, LOCK)


@dataclass(frozen=True)
class State:
    """How far a job is.

    Attributes:
        status: what it does.
        stage: what is under way, in words.
        done, total: of the stage; ``total`` 0 while nobody knows.
        note: about it, such as the loss.
        step, steps: which stage it is, of how many.
        seconds: that the job has run for, pauses left out.
        left: seconds that the stage takes yet, None while nobody knows.
        message: of a job that failed: why, in a sentence.
        process: its process, and when that was started (as the system counts), or None.
        time: when this was written, in seconds since 1970.
    """

    status: Status = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    note: str = ""
    step: int = 0
    steps: int = 1
    seconds: float = 0.0
    left: float | None = None
    message: str = ""
    process: tuple[int, int] | None = None
    time: float = field(default_factory=time.time)

    @property
    def share(self) -> float:
        """How much of all stages is done, from 0 to 1."""
        if self.status == "done":
            return 1.0
        within = self.done / self.total if self.total else 0.0
        return min((max(self.step - 1, 0) + within) / max(self.steps, 1), 1.0)

    @property
    def active(self) -> bool:
        """Whether it goes on by itself."""
        return self.status in ACTIVE


#: The worker hears an interrupt when it has imported all that it needs, and not in the middle.
_QUIET = (
    "import signal, runpy; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    " runpy.run_module('fastcam.studio.worker', run_name='__main__')"
)

_is_state = json_with("status", "stage", "process")
_is_job = json_with("kind", "arguments")


class Job:
    """A job in its folder.

    Args:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, folder: Path, kind: str, arguments: Mapping[str, Any]) -> Job:
        """Write down what is to be done; nothing runs yet.

        A folder that holds the same job already, done or begun, is taken as it is.

        Args:
            folder: made if missing.
            kind: a name in :data:`fastcam.studio.work.KINDS`.
            arguments: JSON values.

        Raises:
            ValueError: the folder holds another job.
        """
        job, content = cls(folder), {"kind": kind, "arguments": dict(arguments)}
        if job.exists:
            if job.content() != content:
                raise ValueError(f"{folder} holds another job")
            return job
        make_folder(folder)
        write_json(folder / JOB, content, ours=_is_job)
        return job

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return (self.folder / JOB).is_file()

    @property
    def id(self) -> str:
        """Its name."""
        return self.folder.name

    def content(self) -> dict[str, Any]:
        """What is to be done: kind and arguments."""
        return read_json(self.folder / JOB, "job of the studio", ("kind", "arguments"))

    # --- state ------------------------------------------------------------------------------------

    def state(self) -> State:
        """How far it is; a process that is gone without a word has failed."""
        path = self.folder / STATE
        if not path.is_file():
            return State(time=0.0)
        values = read_json(path, "state of a job", ("status", "process"))
        process = values["process"]
        state = State(**{**values, "process": process and tuple(process)})
        if state.active and state.process is not None and not _alive(state.process):
            ends: dict[str, Status] = {"pause": "paused", "cancel": "cancelled"}
            if self.wish in ends:
                return replace(state, status=ends[self.wish], process=None)
            message = f"its process ended without a word{_last_line(self.folder / LOG)}"
            return replace(state, status="failed", message=message)
        return state

    def write(self, state: State) -> None:
        """Write how far it is."""
        values = asdict(replace(state, time=time.time()))
        write_json(self.folder / STATE, values, ours=_is_state)

    @property
    def wish(self) -> str:
        """What was last asked of it: ``go``, ``pause`` or ``cancel``."""
        path = self.folder / WISH
        return str(read_json(path, "wish", ("wish",))["wish"]) if path.is_file() else "go"

    def _ask(self, wish: str) -> None:
        write_json(self.folder / WISH, {"wish": wish}, ours=json_with("wish"))

    # --- control ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Run it in a process of its own, which outlives this one; nothing if it runs or is done.

        What an earlier process has finished is kept, and a training goes on where it last saved.
        """
        state = self.state()
        if state.status == "done" or (state.active and state.process is not None):
            return
        self._ask("go")
        with (self.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _QUIET, str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**with_this_fastcam(), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        _children.append(process)
        self.write(
            State(
                status="waiting",
                stage="starting",
                process=(process.pid, _started(process.pid)),
                seconds=state.seconds,
            )
        )

    def pause(self) -> None:
        """Stop at the next step; :meth:`start` goes on where the training last saved."""
        self._stop("pause")

    def cancel(self) -> None:
        """Stop, and leave nothing of what was being made."""
        self._stop("cancel")
        state = self.state()
        if not state.active and state.status != "done":  # a page may not have seen that it is
            self.clear()
            self.write(replace(state, status="cancelled", message="", process=None))

    def clear(self) -> None:
        """Remove what it has made; what was asked and its state stay."""
        for path in self.folder.iterdir():
            if path.name not in _KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _stop(self, wish: str) -> None:
        state = self.state()
        if state.status in ("done", "cancelled") or not self.exists:
            return
        self._ask(wish)
        if state.active and state.process is not None and _alive(state.process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(state.process[0], signal.SIGINT)
        elif state.active:
            self.write(replace(state, status="paused", process=None))

    def remove(self) -> None:
        """Stop it and remove its folder."""
        state = self.state()
        if state.active and state.process is not None and _alive(state.process):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(state.process[0], signal.SIGKILL)
            end = time.monotonic() + 5
            while _alive(state.process) and time.monotonic() < end:
                time.sleep(0.02)
        shutil.rmtree(self.folder, ignore_errors=True)


_children: list[subprocess.Popen[bytes]] = []


def _alive(process: tuple[int, int]) -> bool:
    """Whether that very process lives; a number is given to others later."""
    for child in [c for c in _children if c.poll() is not None]:  # ended ones are no processes
        _children.remove(child)
    pid, started = process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return started in (0, _started(pid))


def _started(pid: int) -> int:
    """When a process was started, in the system's own unit; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    words = text.rpartition(")")[2].split()
    return 0 if words[0] == "Z" else int(words[19])


def with_this_fastcam() -> dict[str, str]:
    """The environment for a process that is to import this very fastcam."""
    root = str(Path(__file__).parents[2])
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def own_process() -> tuple[int, int]:
    """This process, as a state names it."""
    return os.getpid(), _started(os.getpid())


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f": {said[-1][:300]}" if said else " (was it killed, or the memory full?)"
