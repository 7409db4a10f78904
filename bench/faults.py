"""Kills of whatever takes long, at random moments: does the next run end as if nothing had been?

Each case runs undisturbed once, for its results and its duration. Then it is killed N times, by
the signals in turn, at moments drawn uniformly from that duration, and run again. A moment at which
it has ended already is drawn anew. What is compared is the content of every file, times of day left
out; nothing else may be left, and no process. A run after a kill that came when something had been
saved has to do less than an undisturbed one: training steps, drawn faces, searched or decoded
images are counted.

    SIGKILL  to the first process, to another one, or to all of them at once
    SIGTERM  to the first one or to all: one line, exit status 143, within seconds

The processes are forks of this one, which has imported all that they need.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.fault_cases import CASES, Case, prepare
from bench.report import ROOT, UNFINISHED, machine, markdown, write
from fastcam._util.stop import TERMINATED, sigterm_raises

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
#: Seconds in which all processes of a killed run have to be gone.
PATIENCE = 20.0
#: Seconds that a run of a second may take before it is said to hang.
HANGS = 90.0
#: What SIGTERM is answered with.
LINE = "fastcam: ended by SIGTERM; what is saved so far is kept"


@dataclass(frozen=True)
class Kill:
    """One kill, and what came of it.

    case, devices, signal: what was killed, and how. whom: the first process, another or all.
    moment: seconds after the begin. often: whether the run saved after each step. status: how the
    first process ended. late: whether it had ended before the kill came. seconds: from the signal
    until no process was left. took: with the second run. saved: whether something of the work was.
    whole, left: pieces of work of an undisturbed run, and of the second one. faults: in words; none
    where all is as it should be.
    """

    case: str
    devices: int
    signal: str
    whom: str
    moment: float
    often: bool
    status: int
    late: bool
    seconds: float
    took: float
    saved: bool
    whole: int
    left: int
    faults: list[str]


class Process:
    """A fork of this process, in a session of its own.

    Args:
        do: what it does; its exit status.
        said: the file that it prints into.
    """

    def __init__(self, do: Callable[[], int], said: Path) -> None:
        self.said = said
        ready, begun = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            os.close(ready)
            self._be(do, begun)
        os.close(begun)
        os.read(ready, 1)
        os.close(ready)
        self.began = time.monotonic()

    def _be(self, do: Callable[[], int], begun: int) -> None:
        code = 70
        try:
            os.setsid()
            file = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(file, stream)
            with sigterm_raises():
                os.write(begun, b".")
                os.close(begun)
                code = do()
        except KeyboardInterrupt:  # as the command's entry, before there is anything to lose
            os.write(2, f"{LINE}\n".encode())
            code = TERMINATED
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> int:
        """Its exit status, or minus the signal that ended it; it is killed if it hangs."""
        end = time.monotonic() + HANGS
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.003)
        with self.said.open("a") as file:
            file.write(f"Traceback: it hangs, for {HANGS:.0f} s\n")
        for process in {self.pid, *session(self.pid)}:
            os.kill(process, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self, moment: float, number: int, whom: str) -> tuple[str, int, bool, float]:
        """Send a signal that many seconds after the begin.

        Returns:
            Whom it hit, the exit status, whether the first process had ended before, and the
            seconds until no process was left.
        """
        time.sleep(max(0.0, self.began + moment - time.monotonic()))
        living = session(self.pid)
        late = self.pid not in living
        others = [pid for pid in living if pid != self.pid]
        if whom == "another" and not others:
            whom = "first"
        hit = {"first": [self.pid], "another": others[-1:], "all": [self.pid, *others]}[whom]
        sent = time.monotonic()
        for pid in hit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        status = self.wait()
        while session(self.pid) and time.monotonic() < sent + PATIENCE:
            time.sleep(0.005)
        return whom, status, late, time.monotonic() - sent


def session(number: int) -> list[int]:
    """The living processes of a session, by number."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, *rest = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(rest[2]) == number and state not in "ZX":
            found.append(int(path.name))
    return sorted(found)


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file in a folder, by its name there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(_read(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".json":
        settings: Any = json.loads(data).get("settings")
        took = [name for name in ("minutes", "processor_minutes") if name in (settings or ())]
        if took:
            settings = {name: v for name, v in settings.items() if name not in took}
            return json.dumps({**json.loads(data), "settings": settings}).encode()
    return data


class Place:
    """The folder that a case writes into, the same each time: results hold its name."""

    def __init__(self, work: Path) -> None:
        self.data, self.out, self.temporary = work / "data", work / "out", work / "tmp"
        self.said, self.worked = work / "said.txt", work / "worked.txt"
        self.temporary.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)

    def clear(self) -> None:
        for folder in (self.out, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def begin(self, case: Case, *, often: bool = False) -> Process:
        run = partial(case.run, self.data, self.out, self.worked, often=often)
        return Process(run, self.said)

    def whole(self, case: Case) -> tuple[dict[str, str], int, float]:
        """What an undisturbed run leaves, its pieces of work, and how long it takes.

        Raises:
            RuntimeError: it fails.
        """
        self.clear()
        process = self.begin(case)
        if process.wait():
            raise RuntimeError(f"{case.name}: {self.said.read_text()}")
        seconds = time.monotonic() - process.began
        return contents(self.out), self.worked.stat().st_size, seconds

    def killed(self, case: Case, whole: dict[str, str], work: int, how: Any) -> Kill:
        """One kill of a case, and the run after it.

        Args:
            whole, work: what is left of an undisturbed one, and its pieces of work.
            how: (signal, whom, moment, often).
        """
        number, whom, moment, often = how
        self.clear()
        process = self.begin(case, often=often)
        whom, status, late, seconds = process.kill(moment, number, whom)
        faults = list(self._ended(number, whom, status))
        for pid in session(process.pid):
            faults.append(f"process {pid} goes on")
            os.kill(pid, signal.SIGKILL)
        saved = case.saved(self.out)
        if code := self.begin(case).wait():
            faults.append(f"the next run ended with {code}: {self._last_line()}")
        left = self.worked.stat().st_size
        if saved and left >= work:
            faults.append(f"the next run did {left} of {work} pieces of work, as if none was saved")
        if different := _different(contents(self.out), whole):
            faults.append(f"not as if nothing had been: {different}")
        if files := sorted(path.name for path in self.temporary.iterdir()):
            faults.append(f"left in TMPDIR: {', '.join(files)}")
        took = time.monotonic() - process.began
        return Kill(
            case.name, case.devices, signal.Signals(number).name, whom, moment, often, status,
            late, seconds, took, saved, work, left, faults,
        )  # fmt: skip

    def _ended(self, number: int, whom: str, status: int) -> Iterator[str]:
        said = self.said.read_text(errors="replace")
        if "Traceback" in said:
            yield f"a traceback: {said[said.index('Traceback') :][-3000:]}"
        if number == signal.SIGTERM and status:
            if status != TERMINATED:
                yield f"SIGTERM gave the exit status {status}: {self._last_line()}"
            elif said.count(LINE) != 1:
                yield f"SIGTERM was answered with: {said[-300:]}"
        if number == signal.SIGKILL and whom == "another" and status not in (0, 2):
            yield f"the exit status is {status} after another one's end: {self._last_line()}"

    def _last_line(self) -> str:
        lines = self.said.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "nothing was said"


def _different(found: dict[str, str], wanted: dict[str, str]) -> str:
    """The names of the files that differ; "" if none does."""
    names = sorted(n for n in {*found, *wanted} if found.get(n) != wanted.get(n))
    words = {True: "missing", False: "changed"}
    return ", ".join(
        f"{n} ({words[n not in found] if n in wanted else 'left over'})" for n in names
    )


def kills(case: Case, place: Place, moments: int, seed: int) -> Iterator[Kill]:
    """All kills of a case, by the signals in turn; those that came too late are among them, and
    followed by another each."""
    whole, work, seconds = place.whole(case)
    chance = random.Random(f"{seed} {case.name} {case.devices}")
    for index in range(moments):
        number = SIGNALS[index % 2]
        choice = ("first", "all", "another")[: 3 if number == signal.SIGKILL else 2]
        whom, moment = chance.choice(choice), chance.uniform(0, seconds)
        while True:
            kill = place.killed(case, whole, work, (number, whom, moment, index % 4 > 1))
            yield kill
            if not kill.late:
                break
            moment = chance.uniform(0, moment)  # this time it took less


def table(found: Sequence[Kill]) -> str:
    rows = []
    for key in dict.fromkeys((k.case, k.devices, k.signal) for k in found):
        all_of = [k for k in found if (k.case, k.devices, k.signal) == key]
        same = [k for k in all_of if not k.late]
        whom = Counter(k.whom for k in same)
        seconds = [k.seconds for k in same]
        saved = [100 * k.left / k.whole for k in same if k.saved]
        rest = f"{median(saved):.0f} (of {len(saved)})" if saved else "–"
        rows.append([
            key[0], str(key[1]), key[2], str(len(same)),
            ", ".join(f"{n} {name}" for name, n in sorted(whom.items())),
            str(len(all_of) - len(same)), str(sum(not k.faults for k in same)), rest,
            f"{median(seconds):.2f} ({max(seconds):.2f})" if same else "–",
            f"{median(k.took for k in same):.1f}" if same else "–",
        ])  # fmt: skip
    header = ["killed", "processes", "signal", "moments", "whom", "drawn anew"]
    header += ["as if nothing had been", "% of the work left where some was saved"]
    header += ["s until all were gone (longest)", "s a moment"]
    return markdown(header, rows)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench faults", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--moments", type=int, default=50, help="of each case, by the two signals in turn"
    )
    parser.add_argument("--only", help="names of cases, with commas between")
    parser.add_argument("--images", type=int, default=48, help="drawn faces (default 48)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, help="folder for what is written and removed again")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench")
    options = parser.parse_args(arguments)
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("faults: a process with threads cannot be forked; run it by itself")
    known = {case.name for case in CASES}
    chosen = set((options.only or ",".join(known)).split(","))
    if wrong := chosen - known:
        raise ValueError(f"--only: expected some of {', '.join(sorted(known))}, got {wrong}")
    about = {**machine(), "moments": f"{options.moments} of each case, seed {options.seed}"}
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="fastcam-faults-", dir=options.work))
    found: list[Kill] = []

    def save(state: Mapping[str, Any]) -> None:
        results = [asdict(kill) for kill in found]
        write(options.out, "faults", {**about, **state}, results, table(found))

    try:
        place = Place(work)
        if Process(lambda: prepare(place.data, options.images), place.said).wait():
            raise RuntimeError(place.said.read_text())
        for case in (c for c in CASES if c.name in chosen):
            for kill in kills(case, place, options.moments, options.seed):
                found.append(kill)
                save(UNFINISHED)
                for fault in kill.faults:
                    print(f"{kill.case} × {kill.devices}, {kill.signal} to {kill.whom} after "
                          f"{kill.moment:.3f} s: {fault}", flush=True)  # fmt: skip
            print(f"{case.name} × {case.devices}: {options.moments} moments", file=sys.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    save({})
    print(table(found))
    return int(any(kill.faults for kill in found))
