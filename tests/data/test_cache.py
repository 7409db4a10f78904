"""Decoded images in a file: the same as decoded ones, resumed, shared, checked, and on the disk."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cache_worker
import numpy as np
import pytest
import torch
from cache_worker import fill, open_cache, pixels
from PIL import Image
from tiny_faces import write_faces

from fastcam._util.claim import claim
from fastcam._util.files import WriteError
from fastcam.data import CelebA, PreparedFaces, prepared
from fastcam.data.cache import FOLDER, VARIABLE

IMAGES = "img_align_celeba"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy", ignore=lambda *_: [FOLDER]))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the images that are decoded, as they are."""
    names: list[str] = []
    plain = CelebA.__getitem__

    def counted(self: CelebA, index: int) -> Any:
        names.append(self.names[index])
        return plain(self, index)

    monkeypatch.setattr(CelebA, "__getitem__", counted)
    return names


def _same(one: PreparedFaces, other: PreparedFaces) -> bool:
    return len(one) == len(other) and all(
        torch.equal(one[i][key], other[i][key])
        for i in range(len(one))
        for key in ("image", "landmarks", "labels")
    )


@pytest.mark.parametrize("fit", ["crop", "face", "stretch"])
def test_file_memory_and_decoder_give_the_same(
    copy: Path, fit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = CelebA(copy, "train")
    options: dict[str, Any] = {"fit": fit, "indices": [5, 0, 7]}
    in_file = PreparedFaces(faces, 32, cache=True, **options)
    in_memory = PreparedFaces(faces, 32, cache=False, **options)
    monkeypatch.setattr(prepared, "available_memory", lambda: 0)
    nowhere = PreparedFaces(faces, 32, cache=False, **options)
    assert (in_file.cached, in_memory.cached, nowhere.cached) == (True, True, False)
    assert _same(in_file, nowhere) and _same(in_memory, nowhere)
    assert in_file[0]["landmarks"].canvas_size == (32, 32)
    assert _same(pickle.loads(pickle.dumps(in_file)), nowhere)


@pytest.mark.parametrize("zipped", [False, True])
def test_what_was_decoded_once_is_not_again(
    tmp_path: Path, zipped: bool, decoded: list[str]
) -> None:
    root = write_faces(tmp_path, zipped=zipped)
    reports: list[tuple[int, int]] = []
    PreparedFaces(CelebA(root, "train"), 16, indices=range(10))
    assert len(decoded) == 10
    whole = PreparedFaces(
        CelebA(root, "train"), 16, progress=lambda done, total: reports.append((done, total))
    )
    assert len(decoded) == 24 and reports == [(i, 24) for i in range(11, 25)]
    assert _same(whole, PreparedFaces(CelebA(root, "all"), 16, indices=range(24)))
    assert len(decoded) == 24
    PreparedFaces(CelebA(root, "train"), 16, fit="face", indices=[0])
    PreparedFaces(CelebA(root, "train"), 20, indices=[0])
    assert len(decoded) == 26
    assert len(list((root / FOLDER).iterdir())) == 3


def test_a_changed_image_is_decoded_again_and_no_other(copy: Path, decoded: list[str]) -> None:
    before = PreparedFaces(CelebA(copy, "train"), 16)
    decoded.clear()
    files = sorted((copy / IMAGES).iterdir())[:24]
    largest = max(range(24), key=lambda i: files[i].stat().st_size)
    other = (largest + 1) % 24
    status = files[largest].stat()
    files[largest].write_bytes(files[other].read_bytes().ljust(status.st_size, b"\0"))
    os.utime(files[largest], ns=(status.st_atime_ns, status.st_mtime_ns))  # as old and as long
    after = PreparedFaces(CelebA(copy, "train"), 16)
    assert decoded == [files[largest].name]
    assert torch.equal(after[largest]["image"], after[other]["image"])
    assert torch.equal(after[other]["image"], before[other]["image"])


def test_an_image_that_changed_in_the_zip_is_decoded_again(
    tmp_path: Path, decoded: list[str]
) -> None:
    root = write_faces(tmp_path, 8, zipped=True)
    archive = root / f"{IMAGES}.zip"
    with zipfile.ZipFile(archive) as file:
        entries = {info.filename: file.read(info) for info in file.infolist()}
    PreparedFaces(CelebA(root, "train"), 16)
    decoded.clear()
    small, large = (f"{IMAGES}/{n}" for n in ("000001.jpg", "000002.jpg"))
    if len(entries[small]) > len(entries[large]):
        small, large = large, small
    entries[large] = entries[small].ljust(len(entries[large]), b"\0")  # as long as it was
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
    after = PreparedFaces(CelebA(root, "train"), 16)
    assert decoded == [Path(large).name]
    assert torch.equal(after[0]["image"], after[1]["image"])


def test_another_list_of_images_makes_another_cache_and_the_old_one_goes(
    copy: Path, decoded: list[str]
) -> None:
    PreparedFaces(CelebA(copy, "train"), 16)
    PreparedFaces(CelebA(copy, "train"), 20, indices=[0])
    before = {path.name for path in (copy / FOLDER).iterdir()}
    shutil.copy(copy / IMAGES / "000001.jpg", copy / IMAGES / "000000.jpg")
    decoded.clear()
    PreparedFaces(CelebA(copy, "train"), 16)
    after = {path.name for path in (copy / FOLDER).iterdir()}
    assert len(decoded) == 24
    assert len(before) == len(after) == 2 and len(before & after) == 1


def test_a_cache_that_is_being_filled_is_left_alone(copy: Path) -> None:
    PreparedFaces(CelebA(copy, "train"), 16)
    (filled,) = (copy / FOLDER).iterdir()
    shutil.copy(copy / IMAGES / "000001.jpg", copy / IMAGES / "000000.jpg")
    with claim(filled):
        PreparedFaces(CelebA(copy, "train"), 16)
        assert (filled / "images.u8").exists()
    shutil.copy(copy / IMAGES / "000001.jpg", copy / IMAGES / "000000b.jpg")
    PreparedFaces(CelebA(copy, "train"), 16)
    assert not (filled / "images.u8").exists()


def test_what_was_cut_off_and_made_longer_again_is_not_read(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    cache = open_cache(folder, 6, 8, log)
    fill(cache, 6)
    wanted = cache.images(range(6))
    os.truncate(folder / "images.u8", 500)
    with pytest.warns(UserWarning, match="cut off by another program"):
        np.testing.assert_array_equal(cache.images([5]), wanted[5:])
    os.truncate(folder / "images.u8", 6 * 192)  # as another run makes it that needs no more
    np.testing.assert_array_equal(cache.images(range(6)), wanted)


def test_landmarks_of_another_size_are_told_without_decoding(
    copy: Path, decoded: list[str]
) -> None:
    PreparedFaces(CelebA(copy, "train"), 16)
    decoded.clear()
    with np.load(copy / "landmarks68.npz") as table:
        columns = dict(table)
    size = next(name for name in columns if columns[name].shape == (48, 2))
    columns[size][6] += 1
    np.savez(copy / "landmarks68.npz", **columns)
    with pytest.raises(ValueError, match=r"another size: 000007\.jpg is 40×48 here, 41×49 there"):
        PreparedFaces(CelebA(copy, "train"), 16)
    assert not decoded


def test_a_damaged_image_file_stops_it_and_what_was_decoded_stays(
    copy: Path, decoded: list[str]
) -> None:
    whole = (copy / IMAGES / "000020.jpg").read_bytes()
    (copy / IMAGES / "000020.jpg").write_bytes(whole[:200])
    with pytest.raises(ValueError, match=r"cannot decode 000020\.jpg"):
        PreparedFaces(CelebA(copy, "train"), 16, workers=1)
    (copy / IMAGES / "000020.jpg").write_bytes(whole)
    decoded.clear()
    PreparedFaces(CelebA(copy, "train"), 16)
    assert "000001.jpg" not in decoded and "000020.jpg" in decoded


def test_damage_on_the_disk_is_found_and_repaired(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    fill(open_cache(folder, 6, 8, log), 6)
    with open(folder / "images.u8", "r+b") as file:
        file.seek(3 * 192 + 5)
        file.write(b"damage")
    cache = open_cache(folder, 6, 8, log)
    fill(cache, 6)
    assert log.stat().st_size == 6
    for _ in range(2):
        np.testing.assert_array_equal(
            cache.images([5, 3, 3]), np.stack([pixels(row, 8) for row in (5, 3, 3)])
        )
    assert log.stat().st_size <= 8
    again = open_cache(folder, 6, 8, tmp_path / "other")
    fill(again, 6)
    again.images(range(6))
    assert not (tmp_path / "other").exists()
    os.truncate(folder / "images.u8", 500)
    fill(again, 6)
    np.testing.assert_array_equal(again.images([5])[0], pixels(5, 8))
    assert (tmp_path / "other").stat().st_size == 6


def _worker(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, cache_worker.__file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _wait_for(log: Path, count: int) -> None:
    until = time.monotonic() + 120
    while not log.exists() or log.stat().st_size < count:
        assert time.monotonic() < until, "the worker decodes nothing"
        time.sleep(0.02)


def test_a_killed_process_loses_next_to_nothing(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    with _worker(folder, 400, 8, log, 0.02, 0) as worker:
        _wait_for(log, 60)
        os.kill(worker.pid, signal.SIGKILL)
    began = log.stat().st_size
    assert began < 400
    cache = open_cache(folder, 400, 8, log)
    fill(cache, 400)
    assert 400 <= log.stat().st_size <= 400 + 2  # the two that its threads had in hand
    np.testing.assert_array_equal(
        cache.images(range(400)), np.stack([pixels(row, 8) for row in range(400)])
    )


@pytest.mark.parametrize("killed", [False, True])
def test_of_two_processes_one_decodes_and_the_other_waits_or_takes_over(
    tmp_path: Path, killed: bool
) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    with _worker(folder, 300, 8, log, 0.02, 0) as first:
        _wait_for(log, 40)
        with _worker(folder, 300, 8, log, 0.0, 0) as second:
            if killed:
                os.kill(first.pid, signal.SIGKILL)
            assert second.wait(120) == 0
        assert first.wait(120) == (-signal.SIGKILL if killed else 0)
    assert 300 <= log.stat().st_size <= 300 + 2 * killed
    assert not (folder / ".fastcam.lock").exists()


def test_a_disk_that_is_too_small_is_told_before(
    copy: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    faces = CelebA(copy, "train")  # 24 images: 24 · (4096 + 32) = 99,072 bytes
    free = 99_000
    monkeypatch.setattr(
        "fastcam.data.cache.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free)
    )
    words = r"24 decoded images need 0\.1 MB in .*; the disk has 0\.1 MB free\. Make room, .*"
    with pytest.raises(WriteError, match=words + VARIABLE):
        PreparedFaces(faces, 16, cache=True)
    assert not decoded and not (copy / FOLDER).exists()
    assert PreparedFaces(faces, 16).cached  # in memory
    assert not (copy / FOLDER).exists()
    monkeypatch.setattr(prepared, "available_memory", lambda: 0)
    with pytest.warns(UserWarning, match="decoded again in every epoch: 24 decoded images need"):
        assert not PreparedFaces(faces, 16).cached
    free = 2 * 99_072 - 1
    with pytest.warns(UserWarning, match="of which at most 50% are taken unasked"):
        assert not PreparedFaces(faces, 16).cached
    free += 1
    assert PreparedFaces(faces, 16).cached
    free = 0
    assert PreparedFaces(faces, 16, cache=True).cached  # what is there already needs no room


def test_a_folder_that_cannot_be_written_is_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PreparedFaces(CelebA(copy, "train"), 16)

    def refused(*_: object) -> None:
        raise WriteError(13, "cannot write")

    monkeypatch.setattr("fastcam.data.cache.claim", refused)
    assert _same(whole, PreparedFaces(CelebA(copy, "train"), 16, cache=True))
    with pytest.raises(WriteError):
        PreparedFaces(CelebA(copy, "test"), 16, cache=True)
    assert PreparedFaces(CelebA(copy, "test"), 16).cached


@pytest.mark.parametrize("name", ["records", "images.u8"])
def test_a_cache_that_another_user_keeps_to_himself_is_left_to_him(
    copy: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = PreparedFaces(CelebA(copy, "train"), 16)
    refused = _refused(monkeypatch, lambda path: path.name == name)
    with pytest.raises(WriteError, match=rf"{name}: Permission denied; name a folder .*{VARIABLE}"):
        PreparedFaces(CelebA(copy, "train"), 16, cache=True)
    kept = PreparedFaces(CelebA(copy, "train"), 16)
    assert kept.cached and _same(whole, kept)  # in memory
    assert PreparedFaces(CelebA(copy, "test"), 16).cached  # of which nothing is there
    assert refused


def test_a_cache_of_another_user_may_lie_beside_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "caches"))
    one, other = (CelebA(write_faces(tmp_path / n / "faces", seed=i), "train") for i, n in
                  enumerate("ab"))  # fmt: skip
    PreparedFaces(one, 16, cache=True)
    (theirs,) = (tmp_path / "caches").iterdir()
    refused = _refused(monkeypatch, lambda path: theirs in path.parents)
    assert PreparedFaces(other, 16, cache=True).cached
    assert refused and len(list((tmp_path / "caches").iterdir())) == 2


def _refused(monkeypatch: pytest.MonkeyPatch, which: Callable[[Path], bool]) -> list[Path]:
    """Have the system refuse some files, as those of another user; the list of those it did."""
    found: list[Path] = []

    def refusing(do: Any) -> Any:
        def done(path: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(path, str | Path) and which(Path(path)):
                found.append(Path(path))
                raise PermissionError(13, "Permission denied", str(path))
            return do(path, *arguments, **options)

        return done

    monkeypatch.setattr("builtins.open", refusing(open))
    monkeypatch.setattr(np, "fromfile", refusing(np.fromfile))
    monkeypatch.setattr(Path, "is_file", refusing(Path.is_file))
    return found


def test_a_file_in_the_place_of_the_folder_is_no_folder_to_write(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / FOLDER).write_text("somebody's")
    with pytest.raises(WriteError, match=rf"cannot make the folder .*{FOLDER} is a file"):
        PreparedFaces(CelebA(copy, "train"), 16, cache=True)
    kept = PreparedFaces(CelebA(copy, "train"), 16)
    assert kept.cached  # in memory
    assert _same(kept, PreparedFaces(CelebA(copy, "train"), 16, cache=False))
    monkeypatch.setattr(prepared, "available_memory", lambda: 0)
    with pytest.warns(UserWarning, match="decoded again in every epoch: cannot make the folder"):
        assert not PreparedFaces(CelebA(copy, "train"), 16).cached
    assert (copy / FOLDER).read_text() == "somebody's"


def test_one_folder_may_hold_the_caches_of_several_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "caches"))
    one, other = (CelebA(write_faces(tmp_path / n / "faces", seed=i), "train") for i, n in
                  enumerate("ab"))  # fmt: skip
    first, second = PreparedFaces(one, 16), PreparedFaces(other, 16)
    assert len(list((tmp_path / "caches").iterdir())) == 2
    assert not (one.root / FOLDER).exists()
    assert not torch.equal(first[0]["image"], second[0]["image"])
    assert _same(first, PreparedFaces(one, 16, cache=False))


def test_no_more_memory_is_taken_than_a_few_batches(tmp_path: Path) -> None:
    count, size, spare = 3000, 128, 64 << 20  # 147 MB of images in 64 MB
    with _worker(tmp_path / "cache", count, size, tmp_path / "log", 0.0, spare) as worker:
        output, _ = worker.communicate(timeout=250)
    assert worker.returncode == 0
    assert (tmp_path / "cache" / "images.u8").stat().st_size == count * 3 * size**2
    assert int(output) < spare


def test_wrong_bytes_in_place_of_an_image_are_no_image(copy: Path) -> None:
    with Image.open(copy / IMAGES / "000005.jpg") as image:
        image.resize((60, 60)).save(copy / IMAGES / "000005.jpg")
    with pytest.raises(ValueError, match=r"000005\.jpg is 60×60 here"):
        PreparedFaces(CelebA(copy, "train"), 16)
