"""Thousands of guided steps take no more memory than the first ones, of either head."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
import torch
from networks import small_cnn
from torch.nn import functional as nnf

import fastcam
from fastcam.cam.heads import Head

#: Bytes that a leak of a few kilobytes a step would take more of.
SPARE = 4 << 20


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("head", "steps"), [("closed", 5000), ("autograd", 2000)])
def test_thousands_of_guided_steps_take_no_memory(head: Head, steps: int) -> None:
    net = small_cnn()
    tap = fastcam.ActivationTap(net, "4")
    criterion = fastcam.IoUCamLoss(max_pair_pull=1.0, head=head)
    energy = fastcam.EnergyCamLoss(head=head)
    balance = fastcam.Balance([1.0, 0.5])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    rng = torch.Generator().manual_seed(0)
    seen: list[int] = []
    for step in range(steps):
        images = torch.randn(4, 3, 12, 12, generator=rng)
        with tap:
            logits = net(images)
            labels = (torch.rand(logits.shape, generator=rng) > 0.5).float()
            shape = (4, logits.shape[1], *tap.activations.shape[-2:])
            regions = torch.rand(shape, generator=rng)
            losses = [criterion(logits, tap, regions), energy(logits, tap, regions)]
            labelled = nnf.binary_cross_entropy_with_logits(logits, labels)
            total = balance(labelled, [(loss, tap) for loss in losses])
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step >= steps // 10 and step % (steps // 10) == 0:
            gc.collect()
            seen.append(_resident())
    gc.collect()
    assert _resident() - seen[0] < SPARE, [size - seen[0] for size in seen]
