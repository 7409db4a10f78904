"""Processes on the CPU that train a small network together, and files of what each found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from networks import small_cnn
from torch import Tensor, nn

from fastcam._util.stop import leave

#: How many images each process has, by how many processes there are: uneven, and none in one.
SHARES = {2: (4, 1), 4: (2, 0, 1, 2)}


def images(count: int) -> Tensor:
    """[count,3,12,12] for :func:`networks.small_cnn`, the same in every process."""
    generator = torch.Generator().manual_seed(9)
    return torch.randn(count, 3, 12, 12, generator=generator, dtype=torch.float64)


def without_dropout(net: nn.Module) -> nn.Module:
    """In double; the masks of dropout would differ by process."""
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net.double()


def network() -> nn.Module:
    return without_dropout(small_cnn())


@contextmanager
def joined(rank: int, world: int, folder: str) -> Iterator[dict[Any, Any]]:
    """In the group of this process: a dict whose content is saved for :func:`found_by_all`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", rank=rank, world_size=world,
        timeout=timedelta(minutes=4),
    )  # fmt: skip
    found: dict[Any, Any] = {}
    yield found
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def run_and_leave(rank: int, run: Callable[..., None], *arguments: Any) -> None:
    """run(rank, …), and the end of this process before Gloo's threads can disturb its own."""
    run(rank, *arguments)
    leave(0)


def found_by_all(run: Callable[[int, int, str], None], world: int, folder: Path) -> list[Any]:
    """What each process of ``run(rank, world, folder)`` has saved, by rank."""
    torch.multiprocessing.spawn(run_and_leave, (run, world, str(folder)), nprocs=world)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]
