"""``python -m bench faults``: five kills of everything that takes long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dlib", reason="finding landmarks needs dlib")
ROOT = Path(__file__).resolve().parents[2]
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_ENDED = """
import dataclasses, sys
from bench import faults
kill = faults.Kill("train", 1, "SIGKILL", "first", 0.5, False, -9, False, 0.1, 1.0, True, 4, 2, [])
def kills(*_):
    yield dataclasses.replace(kill, late=True)
    yield kill
    raise KeyboardInterrupt
faults.kills, faults.prepare = kills, lambda *_: 0
faults.main(["--work", sys.argv[1], "--out", sys.argv[1]])
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # under a minute of one core; the machine may be busy
@pytest.mark.skipif(sys.platform != "linux", reason="forks processes, and looks at them in /proc")
def test_after_a_kill_the_next_run_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    """In a process of its own, which has no threads and can be forked."""
    options = ["--moments", "5", "--images", "24", "--work", str(tmp_path), "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "faults", *options],
        cwd=ROOT, env={**os.environ, **THREADS}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unfinished" not in (tmp_path / "faults.json").read_text()
    every = json.loads((tmp_path / "faults.json").read_text())["results"]
    assert not any(kill["faults"] for kill in every)
    kills = [kill for kill in every if not kill["late"]]  # for those another moment was drawn
    cases = {(kill["case"], kill["devices"]) for kill in kills}
    assert len(cases) == 8 and len(kills) == 5 * len(cases)
    assert {kill["signal"] for kill in kills} == {"SIGKILL", "SIGTERM"}
    assert all(kill["whole"] > 1 for kill in kills)  # pieces of work, which are counted
    saved = [kill for kill in kills if kill["saved"]]
    assert saved and all(kill["left"] < kill["whole"] for kill in saved)
    assert any(kill["left"] for kill in saved)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faults.json", "faults.md"]


@pytest.mark.skipif(sys.platform != "linux", reason="as above")
def test_a_run_that_is_ended_keeps_its_kills(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ENDED, str(tmp_path)],
        cwd=ROOT, env={**os.environ, **THREADS}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr.rstrip().endswith("KeyboardInterrupt"), done.stderr
    kept = json.loads((tmp_path / "faults.json").read_text())
    assert [kill["late"] for kill in kept["results"]] == [True, False]
    assert "unfinished" in kept["machine"] and "unfinished" in (tmp_path / "faults.md").read_text()
