"""What a container or a batch job may take of its machine: the limits of Linux's control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_TREES = Path("/sys/fs/cgroup")
_MINE = Path("/proc/self/cgroup")

# Of both versions: the limit, what is taken of it, and what of that the kernel gives back.
_MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def memory_left() -> int | None:
    """Bytes that this process's groups may still take; None without a limit.

    Past it the kernel kills the process, whatever the machine has free.
    """
    left = []
    for folder in _groups("memory"):
        for limit, taken, kept in _MEMORY:
            most, now = _number(folder / limit), _number(folder / taken)
            if most is not None and now is not None:
                left.append(max(0, most - now + _statistics(folder).get(kept, 0)))
    return min(left, default=None)


def cpu_quota() -> float | None:
    """Processors' worth of time that this process's groups get; None without a limit."""
    quotas = []
    for folder in _groups("cpu"):
        given, period = (*_words(folder / "cpu.max"), "", "")[:2]
        if not period:
            given = "".join(_words(folder / "cpu.cfs_quota_us"))
            period = "".join(_words(folder / "cpu.cfs_period_us"))
        if given.isdecimal() and period.isdecimal() and int(period):  # "max" or -1: none
            quotas.append(int(given) / int(period))
    return min(quotas, default=None)


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the groups that this process is in, each before the one that it is part of.

    A container may see the path on its host, but as the root its own group.
    """
    for line in _lines(_MINE):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        tree = _TREES / controller if controllers else _TREES
        group = tree / path.strip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(tree))


def _statistics(folder: Path) -> dict[str, int]:
    pairs = [line.split() for line in _lines(folder / "memory.stat")]
    return {name: int(value) for name, value in pairs}


def _number(path: Path) -> int | None:
    text = "".join(_words(path))
    return int(text) if text.isdecimal() else None


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
