"""The mapped file when the disk fills up, or somebody cuts it, removes it or leaves its lock."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_worker import fill, open_cache, pixels

from fastcam._util.files import WriteError
from fastcam.data import cache as cache_module
from fastcam.data.cache import FileCache


def _holds_all(cache: FileCache, count: int) -> None:
    wanted = np.stack([pixels(row, 8) for row in range(count)])
    np.testing.assert_array_equal(cache.images(range(count)), wanted)


@pytest.mark.parametrize("writes", [0, 1, 7])
def test_a_disk_that_fills_up_meanwhile_is_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    plain, done = os.pwrite, 0

    def full(file: int, data: Any, offset: int) -> int:
        nonlocal done
        done += 1
        if done > writes:
            if len(data) > 100:  # a half-written image; a record is whole or absent
                plain(file, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(file, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(WriteError, match=r"cannot write .*images\.u8: No space left on device"):
            fill(open_cache(folder, 12, 8, log), 12)
    assert sorted(path.name for path in folder.iterdir()) == ["cache.json", "images.u8", "records"]
    log.unlink()
    cache = open_cache(folder, 12, 8, log)
    fill(cache, 12)
    _holds_all(cache, 12)
    assert 12 - writes // 2 <= log.stat().st_size <= 12 - writes // 2 + 1  # what was whole is kept


@pytest.mark.parametrize("left", [0, 100, 500])
def test_a_file_that_is_cut_while_it_is_mapped_ends_no_process(tmp_path: Path, left: int) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    cache = open_cache(folder, 6, 8, log)
    fill(cache, 6)
    os.truncate(folder / "images.u8", left)
    with pytest.warns(UserWarning, match=r"images\.u8 was cut off by another program"):
        _holds_all(cache, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        _holds_all(cache, 6)
    assert cache.images([]).shape == (0, 3, 8, 8)
    again = open_cache(folder, 6, 8, tmp_path / "other")
    fill(again, 6)
    _holds_all(again, 6)
    assert (tmp_path / "other").stat().st_size == 6


@pytest.mark.parametrize("name", ["images.u8", "records", "cache.json"])
def test_a_file_that_is_removed_while_it_is_mapped_is_made_anew_by_the_next_run(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "cache"
    cache = open_cache(folder, 6, 8)
    fill(cache, 6)
    (folder / name).unlink()
    _holds_all(cache, 6)  # it is held by what maps it
    again = open_cache(folder, 6, 8)
    fill(again, 6)
    _holds_all(again, 6)


def test_the_lock_of_a_process_that_was_killed_when_it_was_done_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    fill(open_cache(folder, 6, 8, log), 6)
    (folder / ".fastcam.lock").write_text("process 1")
    (folder / ".fastcam-999999999-0.tmp").write_text("half")
    fill(open_cache(folder, 6, 8, log), 6)
    assert log.stat().st_size == 6
    assert sorted(path.name for path in folder.iterdir()) == ["cache.json", "images.u8", "records"]
    (folder / ".fastcam.lock").write_text("process 1")

    def refused(*_: object) -> None:
        raise WriteError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(cache_module, "claim", refused)
    fill(open_cache(folder, 6, 8, log), 6)  # it is needed no more, and stays
