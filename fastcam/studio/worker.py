"""The process of a job: ``python -m fastcam.studio.worker FOLDER``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastcam._util.claim import claim
from fastcam._util.files import describe
from fastcam._util.stop import leave
from fastcam._util.workers import cpus
from fastcam.studio.jobs import Job, State, own_process

#: How far its work stands back behind the pages, as `nice` counts it.
_POLITE = 3
#: Seconds between two states on disk.
EVERY = 0.25


class Progress:
    """Writes a job's state while it is being done; a :class:`fastcam._util.progress.Report`.

    Args:
        job: the job.
    """

    def __init__(self, job: Job) -> None:
        before = job.state()
        self.job, self._earlier, self._began = job, before.seconds, time.monotonic()
        self._written, self._recent = 0.0, deque[tuple[float, int]](maxlen=200)
        self.state = State(status="running", process=own_process())
        self._write()

    def stage(self, text: str, step: int, steps: int) -> None:
        """A new stage begins."""
        self._recent.clear()
        self.state = replace(
            self.state, stage=text, step=step, steps=steps, done=0, total=0, note="", left=None
        )
        self._write()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """What is done of the stage; ``what`` stands beside it."""
        now = time.monotonic()
        if self._recent and done < self._recent[-1][1]:
            self._recent.clear()
        self._recent.append((now, done))
        note = " · ".join(part for part in (what, note) if part)
        self.state = replace(self.state, done=done, total=total, note=note, left=self._left(total))
        if now - self._written >= EVERY or done == total:
            self._write()

    def _left(self, total: int) -> float | None:
        (first, begun), (last, done) = self._recent[0], self._recent[-1]
        if done <= begun or last <= first:
            return None
        return (total - done) * (last - first) / (done - begun)

    def end(self, status: Any, message: str = "") -> None:
        """The job is over, or paused."""
        self.state = replace(self.state, status=status, message=message, left=None, process=None)
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        seconds = self._earlier + self._written - self._began
        self.state = replace(self.state, seconds=seconds)
        self.job.write(self.state)


def main(folder: str) -> int:
    """Do a job; its state says how it went."""
    job = Job(Path(folder))
    try:
        with claim(job.folder):
            progress = Progress(job)
            try:
                _do(job, progress)
            except KeyboardInterrupt:
                _stopped(job, progress)
            except Exception as error:
                traceback.print_exc()
                progress.end("failed", _sentence(error))
                return 1
            return 0
    except BlockingIOError:  # it is being done
        return 0


def _do(job: Job, progress: Progress) -> None:
    from fastcam.studio import work
    from fastcam.training import keep_freed_memory

    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored until now
    if job.wish != "go":  # asked for meanwhile
        raise KeyboardInterrupt
    content = job.content()
    work.KINDS[content["kind"]](job, content["arguments"], progress)
    progress.end("done")


def _step_back(job: Job) -> None:
    """Let the pages have the processors first, also where Linux shares them out by sessions.

    A survey is begun by looking at a page, which is still being looked at: it leaves a processor.
    """
    if job.content()["kind"] == "look":
        import torch

        torch.set_num_threads(max(1, cpus() - 1))
    os.nice(_POLITE)
    with contextlib.suppress(OSError):  # there is no such file, or another kind of scheduling
        Path("/proc/self/autogroup").write_text(str(_POLITE))


def _stopped(job: Job, progress: Progress) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if job.wish == "cancel":
        job.clear()
        progress.end("cancelled")
    else:
        progress.end("paused")


def _sentence(error: BaseException) -> str:
    text = " ".join(describe(error).split()) or type(error).__name__
    expected = isinstance(error, (ValueError, TypeError, OSError, ImportError, ArithmeticError))
    return text if expected else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    _step_back(Job(Path(sys.argv[1])))
    leave(main(sys.argv[1]))
