"""``AttributeTask`` in a Lightning trainer of one's own, over two processes, is that in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from trainer_worker import SHARES, fit

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)


def test_a_trainer_of_one_s_own_over_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """Uneven shares, and one without an image: losses, validation and weights at the end."""
    worker = Path(__file__).parents[1] / "support" / "trainer_worker.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, str(worker), str(tmp_path)],
        env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        _, said = process.communicate()
    finally:
        with suppress(ProcessLookupError):  # the process that Lightning started, too
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said
    wanted = fit(devices=1)
    assert len(wanted["steps"]) == 2 * len(SHARES)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        for name in ("steps", "valid", "weights"):
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6)
