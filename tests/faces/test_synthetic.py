"""The synthetic data set: drawn where it belongs, deterministic, resumable, in CelebA's layout."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL.Image")

from PIL import Image, ImageDraw

from fastcam import faces as synthetic
from fastcam.faces import render_face, sample_attributes, sample_face
from fastcam.faces.writer import image_name

SMALL = (89, 109)
LIPSTICK, MAKEUP = "Wearing_Lipstick", "Heavy_Makeup"


def lips_mask(landmarks: np.ndarray, size: tuple[int, int], grow: float) -> np.ndarray:
    """Pixels within `grow` of the outline of the lips, the mouth's opening included: bool [H,W]."""
    k = 8
    layer = Image.new("L", (size[0] * k, size[1] * k), 0)
    outline = [tuple(map(float, p * k)) for p in landmarks[48:60]]
    pen = ImageDraw.Draw(layer)
    pen.polygon(outline, fill=255)
    if grow > 0:
        pen.line([*outline, outline[0]], fill=255, width=int(2 * grow * k))
        for x, y in outline:
            r = grow * k
            pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return np.asarray(layer.resize(size, Image.Resampling.BOX)) > 0


def pair_of(index: int, name: str, **others: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same face without and with an attribute."""
    return [
        render_face(sample_face(3, index, attributes={name: value, "Blurry": False, **others}))
        for value in (False, True)
    ]


@pytest.mark.parametrize("index", range(6))
def test_lipstick_changes_the_mouth_and_nothing_else(index: int) -> None:
    (bare, points), (worn, worn_points) = pair_of(index, LIPSTICK)
    np.testing.assert_array_equal(points, worn_points)
    changed = np.any(bare != worn, axis=2)
    around = lips_mask(points, (178, 218), grow=2.0)
    assert not changed[~around].any()
    inside = lips_mask(points, (178, 218), grow=0.0)
    assert changed.sum() > 0.5 * inside.sum()


@pytest.mark.parametrize("index", range(6))
def test_makeup_changes_eyes_and_cheeks_but_no_pixel_of_the_lips(index: int) -> None:
    (bare, points), (worn, _) = pair_of(index, MAKEUP, Sunglasses=False)
    changed = np.any(bare != worn, axis=2)
    assert not changed[lips_mask(points, (178, 218), grow=1.0)].any()
    for eye in (points[36:42], points[42:48]):
        (x0, y0), (x1, y1) = eye.min(axis=0) - 4, eye.max(axis=0) + 4
        assert changed[int(y0) : int(y1), int(x0) : int(x1)].mean() > 0.3
    mouth_width = np.ptp(points[48:60, 0])
    below = int(points[57, 1] + 0.3 * mouth_width)
    assert not changed[below:].any()


@pytest.mark.parametrize(
    ("name", "region"),
    [
        ("Eyeglasses", slice(36, 48)),
        ("Double_Chin", slice(5, 12)),
        ("Bangs", slice(17, 27)),
        ("Mustache", slice(48, 55)),
        ("Bags_Under_Eyes", slice(40, 42)),
        ("Bushy_Eyebrows", slice(17, 22)),
    ],
)
def test_an_attribute_is_drawn_near_its_landmarks(name: str, region: slice) -> None:
    free = {"Wearing_Hat": False, "Bald": False, "Receding_Hairline": False, "Goatee": False}
    (bare, points), (drawn, _) = pair_of(1, name, **free, Sunglasses=False)
    ys, xs = np.nonzero(np.abs(bare.astype(int) - drawn).max(axis=2) > 8)
    assert len(ys) > 20
    places = points[region]
    nearest = np.linalg.norm(places[:, None] - np.stack([xs, ys], axis=1)[None], axis=2).min(axis=0)
    assert np.quantile(nearest, 0.25) < 16.0


def test_every_attribute_can_be_seen() -> None:
    """A column exists only if something visible carries it."""
    rules = {name: {} for name in synthetic.ATTRIBUTES}
    bald = {"Bald": False, "Wearing_Hat": False, "Receding_Hairline": False, "Bangs": False}
    for name in ("Bangs", "Receding_Hairline", "Wearing_Hat"):
        rules[name] = {k: v for k, v in bald.items() if k != name}
    for name in ("Straight_Hair", "Wavy_Hair"):
        rules[name] = {"Bald": False, "Straight_Hair": False, "Wavy_Hair": False}
        rules[name].pop(name)
    for name in ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Sideburns"):
        rules[name] = {"Bald": False, "Wearing_Hat": False}
    rules["Bald"] = {k: v for k, v in bald.items() if k != "Bald"}
    rules["Bald"] |= {"Straight_Hair": False, "Wavy_Hair": False}
    rules["Sunglasses"] = {"Eyeglasses": True}
    rules["Eyeglasses"] = {"Sunglasses": False}
    for name in ("5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns"):
        rules[name] = {**rules[name], "Male": True}
    drawn: dict[str, np.ndarray] = {}  # most faces without an attribute are the same face
    for name, others in rules.items():
        images = []
        for value in (False, True):
            face = sample_face(11, 5, attributes={**others, name: value})
            assert face.attributes[name] is value
            key = repr(replace(face, attributes={}))
            if key not in drawn:
                drawn[key] = render_face(face)[0].astype(int)
            images.append(drawn[key])
        strong = np.abs(images[0] - images[1]).max(axis=2) > 6
        assert strong.sum() >= 15, f"{name} changes {strong.sum()} pixels"


def test_landmarks_lie_where_celeba_aligns_them() -> None:
    points = np.stack([synthetic.face_landmarks(sample_face(5, i)) for i in range(100)])
    left, right = points[:, 36:42].mean(axis=1), points[:, 42:48].mean(axis=1)
    np.testing.assert_allclose(left.mean(axis=0), (69, 111), atol=1.0)
    np.testing.assert_allclose(right.mean(axis=0), (108, 111), atol=1.0)
    assert (right[:, 0] - left[:, 0] > 30).all()
    assert points.dtype == np.float32 and points.shape[1:] == (68, 2)
    # dlib's order: the viewer's left first; brows over eyes over nose over mouth over chin
    assert (points[:, 0, 0] < points[:, 16, 0]).all() and (
        points[:, 48, 0] < points[:, 54, 0]
    ).all()
    assert (points[:, 17:22, 1].mean(1) < points[:, 36:42, 1].mean(1)).all()
    assert (points[:, 33, 1] < points[:, 51, 1]).all() and (
        points[:, 57, 1] < points[:, 8, 1]
    ).all()
    assert (points[:, 51, 1] <= points[:, 62, 1]).all() and (
        points[:, 66, 1] <= points[:, 57, 1]
    ).all()
    # the poses differ
    slope = np.arctan2(*(right - left).T[::-1])
    assert np.degrees(slope).std() > 1.0
    nose = points[:, 30, 0] - 0.5 * (left + right)[:, 0]
    assert nose.std() > 1.0


def test_the_pupil_is_drawn_between_the_lids() -> None:
    for index in range(4):
        face = sample_face(2, index, attributes={"Eyeglasses": False, "Sunglasses": False,
                                                 "Narrow_Eyes": False, "Bangs": False,
                                                 "Wearing_Hat": False})  # fmt: skip
        image, points = render_face(face)
        for eye in (points[36:42], points[42:48]):
            x, y = np.rint(eye.mean(axis=0)).astype(int)
            patch = image[y - 3 : y + 4, x - 5 : x + 6].astype(float).mean(axis=2)
            cheek = image[y + 16 : y + 19, x - 2 : x + 3].astype(float).mean()
            assert patch.min() < 0.5 * cheek


def test_smiling_moves_the_corners_of_the_mouth_up() -> None:
    for index in range(5):
        (_, calm), (_, smile) = pair_of(index, "Smiling", High_Cheekbones=False)
        corner = [p[[48, 54], 1].mean() - p[[51, 57], 1].mean() for p in (calm, smile)]
        assert corner[1] < corner[0] - 1.0
        assert np.ptp(smile[48:55, 0]) > np.ptp(calm[48:55, 0])


def test_size_scales_picture_and_landmarks() -> None:
    face = sample_face(4, 0)
    large, points = render_face(face)
    small, small_points = render_face(face, SMALL)
    assert large.shape == (218, 178, 3) and small.shape == (109, 89, 3)
    np.testing.assert_allclose(small_points * 2, points, atol=1e-3)
    shrunk = np.asarray(Image.fromarray(large).resize(SMALL, Image.Resampling.BOX), dtype=float)
    assert np.abs(shrunk - small).mean() < 12.0
    np.testing.assert_array_equal(synthetic.face_landmarks(face), points)


def test_cooccurrence_is_what_the_knob_says() -> None:
    count = 6000
    knob = {(LIPSTICK, MAKEUP): 0.8, ("Smiling", "Big_Nose"): (0.7, 0.1)}
    drawn = [sample_attributes(np.random.default_rng([7, i]), knob) for i in range(count)]
    table = {name: np.array([row[name] for row in drawn]) for name in synthetic.ATTRIBUTES}

    def check(rate: float, hits: np.ndarray) -> None:
        bound = 4.5 * np.sqrt(rate * (1 - rate) / len(hits))
        assert abs(hits.mean() - rate) < bound

    a, b = table[LIPSTICK], table[MAKEUP]
    check(0.8, b[a])
    check(0.2, b[~a])
    check(0.7, table["Big_Nose"][table["Smiling"]])
    check(0.1, table["Big_Nose"][~table["Smiling"]])
    check(synthetic.BASE_RATES["Smiling"], table["Smiling"])
    check(0.70, a[~table["Male"]])
    check(0.12, a[table["Male"]])
    # the pairs that were not named keep their defaults; what has no pair is independent
    check(0.9, table["Double_Chin"][table["Chubby"]])
    check(synthetic.BASE_RATES["Young"], table["Young"][a])


def test_all_four_cells_are_populated_at_the_default() -> None:
    drawn = [sample_attributes(np.random.default_rng([1, i])) for i in range(2000)]
    for a, b in synthetic.DEFAULT_COOCCURRENCE:
        cells = np.zeros((2, 2), dtype=int)
        for row in drawn:
            cells[int(row[a]), int(row[b])] += 1
        assert cells.min() >= 25, (a, b, cells)
        assert cells.trace() > 0.85 * cells.sum()


def test_attributes_agree_with_each_other() -> None:
    for i in range(1500):
        on = sample_attributes(np.random.default_rng([2, i]))
        colors = sum(on[k] for k in ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"))
        assert colors <= 1 and not (on["Bald"] and (colors or on["Bangs"] or on["Wearing_Hat"]))
        assert not (on["Straight_Hair"] and on["Wavy_Hair"])
        assert on["Eyeglasses"] or not on["Sunglasses"]
        beard = on["5_o_Clock_Shadow"] or on["Goatee"] or on["Sideburns"]
        assert on["No_Beard"] is not beard
        assert on["Male"] or (not beard and not on["Mustache"])


@pytest.mark.parametrize(
    ("knob", "words"),
    [
        ({(LIPSTICK, "Lip_Gloss"): 0.5}, "unknown"),
        ({(LIPSTICK, "Bald"): 0.5}, "tied to hair"),
        ({(LIPSTICK, MAKEUP): 1.5}, r"\[0, 1\]"),
        ({(LIPSTICK, MAKEUP): (0.5, -0.1)}, r"\[0, 1\]"),
        ({(LIPSTICK, MAKEUP): (0.5, 0.1, 0.1)}, "or two"),
        ({LIPSTICK: 0.5}, "pairs"),
        ({(LIPSTICK, LIPSTICK): 0.5}, "two different"),
        ({(LIPSTICK, "Young"): 0.5, ("Male", "Young"): 0.5}, "several"),
        ({(LIPSTICK, "Young"): 0.5, ("Young", LIPSTICK): 0.5}, "cycle"),
        ({(LIPSTICK, "Male"): 0.5}, "cycle"),
        ({(LIPSTICK, MAKEUP): "high"}, "number"),
    ],
)
def test_a_bad_cooccurrence_is_named(knob: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        sample_face(0, 0, cooccurrence=knob)
    assert "cooccurrence" in str(caught.value)


def test_bad_attributes_are_named() -> None:
    with pytest.raises(ValueError, match="unknown attribute 'Handsome'"):
        sample_face(0, attributes={"Handsome": True})
    with pytest.raises(ValueError, match="Bald"):
        sample_face(0, attributes={"Bald": True, "Bangs": True})
    with pytest.raises(ValueError, match="Eyeglasses"):
        sample_face(0, attributes={"Sunglasses": True, "Eyeglasses": False})
    with pytest.raises(ValueError, match="contradicts"):
        sample_face(0, attributes={"No_Beard": True, "Goatee": True})
    with pytest.raises(ValueError, match="contradicts"):
        sample_face(0, attributes={"Black_Hair": True, "Blond_Hair": True})
    with pytest.raises(ValueError, match="seed"):
        sample_face(-1)
    with pytest.raises(ValueError, match="size"):
        render_face(sample_face(0), (8, 8))
    with pytest.raises(ValueError, match="size"):
        render_face(sample_face(0), (178,))  # type: ignore[arg-type]


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    one = synthetic.generate(tmp_path / "one", 20, seed=9, size=SMALL, workers=1)
    two = synthetic.generate(tmp_path / "two", 20, seed=9, size=SMALL, workers=2)
    other = synthetic.generate(tmp_path / "other", 3, seed=10, size=SMALL, workers=1)
    assert digest(one) == digest(two)
    assert not set(digest(one).values()) & set(digest(other).values())


def test_the_layout_is_celebas(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    root = synthetic.generate(
        tmp_path / "faces", 20, seed=1, size=SMALL, splits=(0.5, 0.25, 0.25), workers=1,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (20, 20) and [d for d, _ in seen] == sorted(d for d, _ in seen)
    names = [f"{i:06d}.jpg" for i in range(1, 21)]
    assert sorted(p.name for p in (root / "img_align_celeba").iterdir()) == names
    lines = (root / "list_attr_celeba.txt").read_text().splitlines()
    assert lines[0] == "20" and tuple(lines[1].split()) == synthetic.ATTRIBUTES
    rows = [line.split() for line in lines[2:]]
    assert [r[0] for r in rows] == names
    assert all(len(r) == 1 + len(synthetic.ATTRIBUTES) and set(r[1:]) <= {"1", "-1"} for r in rows)
    face = sample_face(1, 3)
    assert [v == "1" for v in rows[3][1:]] == list(face.attributes.values())
    part = [line.split() for line in (root / "list_eval_partition.txt").read_text().splitlines()]
    assert [p[0] for p in part] == names
    assert [p[1] for p in part] == ["0"] * 10 + ["1"] * 5 + ["2"] * 5
    with np.load(root / "landmarks68.npz") as table:
        assert list(table["name"]) == names and (table["source"] == 3).all()
        assert (table["size"] == SMALL).all() and table["landmarks"].dtype == np.float32
        np.testing.assert_array_equal(table["landmarks"][3], render_face(face, SMALL)[1])
    drawn = render_face(face, SMALL)[0].astype(int)
    with Image.open(root / "img_align_celeba" / names[3]) as stored:
        assert stored.size == SMALL and stored.mode == "RGB"
        assert np.abs(np.asarray(stored).astype(int) - drawn).mean() < 4.0


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    whole = digest(synthetic.generate(tmp_path / "whole", 24, seed=2, size=SMALL, workers=1))

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done >= 16:
            raise Stopped

    root = tmp_path / "stopped"
    with pytest.raises(Stopped):
        synthetic.generate(root, 24, seed=2, size=SMALL, workers=1, progress=stop)
    folder = root / "img_align_celeba"
    kept = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert 0 < len(kept) < 24 and not (root / "list_attr_celeba.txt").exists()
    # what a kill in the middle of a write leaves, and a file that something else cut off
    (folder / ".fastcam-99999999-0.tmp").write_bytes(b"half")
    victim = folder / image_name(2)
    victim.write_bytes(victim.read_bytes()[:500])
    synthetic.generate(root, 24, seed=2, size=SMALL, workers=1)
    assert digest(root) == whole
    for name, stamp in kept.items():
        if name != victim.name:
            assert (folder / name).stat().st_mtime_ns == stamp


def test_other_parameters_do_not_mix(tmp_path: Path) -> None:
    root = synthetic.generate(tmp_path / "faces", 4, seed=2, size=SMALL, workers=1)
    before = digest(root)
    with pytest.raises(ValueError, match=r"other parameters \(seed was 2, now 3\)"):
        synthetic.generate(root, 4, seed=3, size=SMALL, workers=1)
    with pytest.raises(ValueError, match="cooccurrence was"):
        synthetic.generate(
            root, 4, seed=2, size=SMALL, workers=1, cooccurrence={(LIPSTICK, MAKEUP): 0.5}
        )
    assert digest(root) == before
    assert json.loads((root / "synthetic.json").read_text())["parameters"]["seed"] == 2


def test_a_folder_with_another_data_set_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "list_attr_celeba.txt").write_text("0\n\n")
    with pytest.raises(ValueError, match="another data set"):
        synthetic.generate(tmp_path, 4, workers=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="expected a folder"):
        synthetic.generate(tmp_path / "file", 4, workers=1)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "synthetic.json").write_text("[]")
    with pytest.raises(ValueError, match="not a manifest"):
        synthetic.generate(tmp_path / "odd", 4, workers=1)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_images": 0}, "num_images"),
        ({"num_images": 4, "seed": -1}, "seed"),
        ({"num_images": 4, "size": (10, 10)}, "size"),
        ({"num_images": 4, "splits": (0.5, 0.5)}, "splits"),
        ({"num_images": 4, "splits": (0.5, 0.5, 0.5)}, "splits"),
        ({"num_images": 4, "workers": -1}, "workers"),
    ],
)
def test_a_bad_argument_is_named_before_anything_is_written(
    tmp_path: Path, arguments: dict, name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        synthetic.generate(tmp_path / "faces", **arguments)
    assert not (tmp_path / "faces").exists()
