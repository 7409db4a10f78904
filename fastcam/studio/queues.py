"""Which job runs next: surveys newest first, fine-tunings in turn."""

from __future__ import annotations

import threading
from pathlib import Path

from fastcam.studio.home import ids_in
from fastcam.studio.jobs import Job, State

#: Of a job that is not over.
UNFINISHED = ("waiting", "running", "paused")


class NewestFirst:
    """One job at a time, the last that was asked for; those that made way go on after it."""

    def __init__(self) -> None:
        self._lock, self._jobs = threading.Lock(), list[Job]()

    def ask(self, job: Job) -> None:
        """Let a job be the next; it begins with the next tick."""
        if job.state().status in UNFINISHED:
            with self._lock:
                self._jobs = [j for j in self._jobs if j.folder != job.folder]
                self._jobs.append(job)

    def tick(self) -> None:
        """Begin the last one; what runs yet is paused first."""
        with self._lock:
            self._jobs = [j for j in self._jobs if j.state().status in UNFINISHED]
            running = [j for j in self._jobs[:-1] if j.state().process is not None]
            for job in running:
                if job.wish != "pause":
                    job.pause()
            if self._jobs and not running:
                self._jobs[-1].start()


class InTurn:
    """The fine-tunings of all sessions, so many at a time.

    Args:
        sessions: folder of the sessions.
        most: that run at a time.
    """

    def __init__(self, sessions: Path, most: int) -> None:
        self._sessions, self._most = sessions, most

    def submit(self, job: Job) -> None:
        """Run a job now or, where as many run as may, when one of them is over."""
        if self._running() < self._most:
            job.start()
        else:
            seconds = job.state().seconds  # of one that goes on
            job.write(State(stage="waiting for the work of others", seconds=seconds))

    def tick(self) -> None:
        """Begin jobs that have waited long enough."""
        for job in [j for j in self._jobs() if j.state().status == "waiting"]:
            if job.state().process is None and self._running() < self._most:
                job.start()

    def _jobs(self) -> list[Job]:
        folders = [self._sessions / name / "jobs" for name in ids_in(self._sessions)]
        return [Job(folder / name) for folder in folders for name in ids_in(folder)]

    def _running(self) -> int:
        states = [job.state() for job in self._jobs()]
        return sum(s.active and s.process is not None for s in states)
