"""Half-precision values under ``torch.set_flush_denormal(True)``: subnormal halves stay."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import fastcam

# With L = -100 and beta = 0 attend multiplies by exactly one: what is loaded is stored again.
PROBE = """
import torch
import fastcam
from fastcam import functional as F

print(fastcam.build_info()["cpu_isa"])
torch.set_num_threads(1)  # the flag belongs to a thread
every = torch.arange(-32768, 32768).to(torch.int16).view(torch.float16)
for flush in (False, True):
    assert torch.set_flush_denormal(flush)
    try:
        for half in (every.reshape(1, 1, 256, 256), every[3:-2].reshape(1, 1, 1, -1)):
            seen = F.attend(half, torch.full_like(half, -100)[:, None])[0].reshape(half.shape)
            got, want = seen.view(torch.int16), half.view(torch.int16)
            nan = (want & 0x7fff) > 0x7c00
            assert torch.equal((got & 0x7fff) > 0x7c00, nan), flush
            wrong = want[~nan][got[~nan] != want[~nan]]
            assert wrong.numel() == 0, (flush, wrong.numel(), wrong[:5].tolist())
    finally:
        torch.set_flush_denormal(False)
"""


@pytest.mark.parametrize("isa", ("baseline", "avx2", ""))
def test_every_half_goes_through_unchanged(isa: str) -> None:
    if isa == "avx2" and fastcam.build_info()["cpu_isa"] == "baseline":
        pytest.skip("this processor runs the baseline kernels only")
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "FASTCAM_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (isa or fastcam.build_info()["cpu_isa"])
