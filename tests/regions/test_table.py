"""The landmark file: contents, lookups, and that it is never half there."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fastcam.regions import LandmarkSource, LandmarkTable


def table_of(names, seed=0):
    rng = np.random.default_rng(seed)
    count = len(names)
    return LandmarkTable(
        np.array(names, dtype=np.str_),
        rng.normal(size=(count, 68, 2)).astype(np.float32),
        rng.integers(0, 4, count).astype(np.uint8),
        rng.integers(1, 300, (count, 2)).astype(np.int32),
    )


@pytest.fixture
def table():
    return table_of(["b.jpg", "a.jpg", "d.jpg", "c.jpg"])


def assert_same(a, b):
    for field in ("name", "landmarks", "source", "size"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_a_file_of_somebody_else_s_stays(tmp_path, table):
    path = tmp_path / "landmarks68.npz"
    np.savez(path, name=np.zeros(3))
    kept = path.read_bytes()
    with pytest.raises(FileExistsError, match="landmarks68"):
        table.save(path)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("names", [[], ["x"], ["b.jpg", "a.jpg", "longer name é.png"]])
def test_round_trip(tmp_path, names):
    path = tmp_path / "new" / "landmarks68.npz"
    table_of(names).save(path)
    loaded = LandmarkTable.load(path)
    assert_same(loaded, table_of(names))
    dtypes = (loaded.landmarks.dtype, loaded.source.dtype, loaded.size.dtype)
    assert dtypes == (np.float32, np.uint8, np.int32)
    assert os.listdir(path.parent) == ["landmarks68.npz"]  # and nothing temporary


def test_the_file_holds_plain_arrays(tmp_path, table):
    table.save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz", allow_pickle=False) as file:
        assert sorted(file) == ["landmarks", "name", "size", "source"]
        assert file["name"].dtype.kind == "U"


def test_saving_twice_gives_the_same_bytes(tmp_path, table):
    table.save(tmp_path / "a.npz")
    table.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path, table, monkeypatch):
    path = tmp_path / "t.npz"
    table.save(path)
    before = path.read_bytes()

    def half_then_fail(file, **arrays):
        file.write(b"PK half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", half_then_fail)
    with pytest.raises(OSError, match="disk full"):
        table_of(["x"]).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["t.npz"]


def test_files_follow_the_umask(tmp_path, table):
    old = os.umask(0o027)
    try:
        table.save(tmp_path / "t.npz")
    finally:
        os.umask(old)
    assert (tmp_path / "t.npz").stat().st_mode & 0o777 == 0o640


def test_lookup(table):
    landmarks, source = table.lookup(["c.jpg", "b.jpg", "c.jpg"])
    np.testing.assert_array_equal(landmarks, table.landmarks[[3, 0, 3]])
    np.testing.assert_array_equal(source, table.source[[3, 0, 3]])
    assert table.lookup([])[0].shape == (0, 68, 2)
    np.testing.assert_array_equal(table.contains(["a.jpg", "z.jpg", ""]), [True, False, False])
    landmarks[:] = 0
    assert table.landmarks.any()


def test_lookup_of_unknown_names(table):
    with pytest.raises(KeyError, match=r"4 of 5 images have no landmarks: e, f, g, \.\.\."):
        table.lookup(["e", "a.jpg", "f", "g", "h"])
    with pytest.raises(KeyError, match="1 of 1"):
        LandmarkTable.empty().lookup(["a"])
    # Longer than any name in the table: must not be cut to match.
    assert not table.contains(["a.jpg2"]).any()


def test_select_and_concatenate(table):
    picked = table.select(["d.jpg", "a.jpg"])
    assert_same(
        LandmarkTable.concatenate([picked, table.select(["b.jpg"])]),
        table.select(["d.jpg", "a.jpg", "b.jpg"]),
    )
    np.testing.assert_array_equal(picked.size, table.size[[2, 1]])
    assert len(LandmarkTable.concatenate([])) == 0


def test_counts():
    table = table_of(list("abcde"))
    table.source[:] = [LandmarkSource.DLIB, 0, 2, 0, LandmarkSource.GROUND_TRUTH]
    assert table.counts() == {"dlib": 3, "template": 1, "ground_truth": 1}
    assert LandmarkTable.empty().counts() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": np.array(["a", "b", "a"])}, "name: expected no name twice, got 'a' twice"),
        ({"name": np.array([1, 2, 3])}, "name: expected text"),
        (
            {"landmarks": np.zeros((3, 5, 2))},
            r"landmarks: expected shape \[3, 68, 2\].*got \[3, 5, 2\]",
        ),
        ({"landmarks": np.zeros((2, 68, 2))}, r"landmarks: .* for 3 names"),
        ({"landmarks": np.zeros((3, 68, 2), complex)}, "landmarks: expected numbers"),
        ({"source": np.array([0, 1, 4])}, "source: expected 0 to 3, got 4"),
        ({"size": np.zeros((3,))}, "size: expected shape"),
    ],
)
def test_arrays_that_do_not_fit(change, message):
    table = table_of(list("abc"))
    arrays = {key: getattr(table, key) for key in ("name", "landmarks", "source", "size")}
    with pytest.raises(ValueError, match=message):
        LandmarkTable(**(arrays | change))


def test_files_that_are_no_table(tmp_path, table):
    with pytest.raises(FileNotFoundError):
        LandmarkTable.load(tmp_path / "none.npz")
    path = tmp_path / "t.npz"
    path.write_text("garbage")
    with pytest.raises(ValueError, match="remove it and run `fastcam landmarks`") as caught:
        LandmarkTable.load(path)
    assert "pickle" not in str(caught.value)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"t\.npz is not a landmark table"):
        LandmarkTable.load(path)
    path.write_text("no zip at all")
    with pytest.raises(ValueError, match="not a landmark table"):
        LandmarkTable.load(path)
    np.savez(path, name=table.name, landmarks=table.landmarks)
    with pytest.raises(ValueError, match="not a landmark table: .*source"):
        LandmarkTable.load(path)
    path.unlink()
    table.save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a landmark table"):
        LandmarkTable.load(path)
    np.save(tmp_path / "t.npy", np.zeros(3))
    with pytest.raises(ValueError, match="not a landmark table"):
        LandmarkTable.load(tmp_path / "t.npy")
    np.savez(path, name=np.array(["a", None], object), landmarks=0, source=0, size=0)
    with pytest.raises(ValueError, match="not a landmark table"):  # pickles are never run
        LandmarkTable.load(path)
