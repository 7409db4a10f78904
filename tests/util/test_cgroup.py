"""Limits of containers and jobs, of both versions of control groups, as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastcam._util import cgroup
from fastcam._util.workers import cpus
from fastcam.data.prepared import available_memory

GIB = 1 << 30
JOB = "slurm/job_7/step_0"


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroup, "_TREES", tmp_path / "cgroup")
    monkeypatch.setattr(cgroup, "_MINE", tmp_path / "self")
    return tmp_path


def _write(tree: Path, mine: str, files: dict[str, object]) -> None:
    (tree / "self").write_text(mine)
    for name, value in files.items():
        path = tree / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def test_the_narrowest_group_of_a_job_counts(tree: Path) -> None:
    _write(tree, f"0::/{JOB}\n", {
        f"{JOB}/memory.max": "max",
        f"{JOB}/memory.current": GIB,
        "slurm/job_7/memory.max": 4 * GIB,
        "slurm/job_7/memory.current": 3 * GIB,
        "slurm/job_7/memory.stat": f"anon {GIB}\nfile {2 * GIB}\ninactive_file {GIB}",
        "slurm/memory.max": 90 * GIB,
        "slurm/memory.current": 8 * GIB,
        f"{JOB}/cpu.max": "max 100000",
        "slurm/job_7/cpu.max": "150000 100000",
    })  # fmt: skip
    assert cgroup.memory_left() == 2 * GIB  # what is kept of files, the kernel gives back
    assert cgroup.cpu_quota() == 1.5


@pytest.mark.parametrize("path", ["/", "/docker/0123"])
def test_a_container_sees_its_own_group_as_the_root(tree: Path, path: str) -> None:
    mine = f"0::{path}\n"
    _write(tree, mine, {"memory.max": 2 * GIB, "memory.current": GIB, "cpu.max": "400000 100000"})
    assert (cgroup.memory_left(), cgroup.cpu_quota()) == (GIB, 4.0)


def test_groups_of_version_1(tree: Path) -> None:
    _write(tree, "9:memory:/docker/0\n3:cpu,cpuacct:/docker/0\n1:name=systemd:/x\n0::/\n", {
        "memory/memory.limit_in_bytes": 2 * GIB,
        "memory/memory.usage_in_bytes": GIB,
        "memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB // 2}",
        "cpu/cpu.cfs_quota_us": 50_000,
        "cpu/cpu.cfs_period_us": 100_000,
    })  # fmt: skip
    assert (cgroup.memory_left(), cgroup.cpu_quota()) == (GIB + GIB // 2, 0.5)


@pytest.mark.parametrize("mine", ["", "0::/\n", "4:memory:/x\n3:cpu:/x\n0::/../..\n"])
def test_without_limits_there_are_none(tree: Path, mine: str) -> None:
    _write(tree, mine, {
        "memory.max": "max", "memory.current": GIB, "cpu.max": "max 100000",
        "cpu/x/cpu.cfs_quota_us": -1, "cpu/x/cpu.cfs_period_us": 100_000,
    })  # fmt: skip
    assert (cgroup.memory_left(), cgroup.cpu_quota()) == (None, None)


def test_without_control_groups_there_are_no_limits() -> None:
    assert (cgroup.memory_left(), cgroup.cpu_quota()) == (None, None)


def test_workers_and_images_in_memory_keep_to_the_limits(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert cpus() == 64
    free = available_memory()
    _write(
        tree, "0::/\n", {"memory.max": GIB, "memory.current": GIB - 5, "cpu.max": "250000 100000"}
    )
    assert cpus() == 3
    assert available_memory() == 5 < free
    _write(tree, "0::/\n", {"memory.current": 2 * GIB, "cpu.max": "1000 100000"})
    assert (cpus(), available_memory()) == (1, 0)
    _write(tree, "0::/\n", {"memory.max": 1 << 60, "cpu.max": "9900000 100000"})
    assert cpus() == 64
    assert available_memory() > 5
