"""Figures show what they claim; the page holds everything and loads nothing."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from PIL import Image
from rich.console import Console
from tiny_faces import ATTRIBUTES, MODEL, TinyNet, write_faces

from fastcam.data import CelebA, PreparedFaces
from fastcam.evaluation.explain import explain_dataset, explain_files, explain_image
from fastcam.models import Checkpoint, save_checkpoint
from fastcam.models.checkpoint import Preprocessing
from fastcam.regions import Region
from fastcam.report import (
    ExplainedFace,
    Section,
    Table,
    bars_figure,
    curves_figure,
    faces_figure,
    html_page,
    png_bytes,
    save_figure,
)
from fastcam.report.faces import outline
from fastcam.report.figure import ATTENDED, REGION


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


def _checkpoint(seed: int, size: int = 32) -> Checkpoint:
    torch.manual_seed(seed)
    return Checkpoint(TinyNet(3).eval(), MODEL, list(ATTRIBUTES), Preprocessing(size))


def test_the_outline_is_the_border_of_the_set() -> None:
    cells = np.array([[0, 1, 1], [0, 0, 1]], bool)
    lines = {tuple(map(tuple, np.round(s, 6).tolist())) for s in outline(cells, 6.0, 8.0)}
    expected = {
        ((2.0, 0.0), (2.0, 4.0)), ((4.0, 4.0), (4.0, 8.0)),
        ((6.0, 0.0), (6.0, 4.0)), ((6.0, 4.0), (6.0, 8.0)),
        ((2.0, 0.0), (4.0, 0.0)), ((4.0, 0.0), (6.0, 0.0)),
        ((2.0, 4.0), (4.0, 4.0)), ((4.0, 8.0), (6.0, 8.0)),
    }  # fmt: skip
    assert lines == expected
    assert outline(np.zeros((2, 2), bool), 4, 4) == []


def _face(caption: str = "face") -> ExplainedFace:
    cam = np.zeros((4, 4), np.float32)
    cam[1, 2] = 1.0
    return ExplainedFace(
        image=np.full((16, 16, 3), 128, np.uint8),
        cams={"one": cam, "two": np.zeros((4, 4), np.float32)},
        scores={"one": 0.9, "two": 0.25},
        rectangles=np.array([[2.0, 3.0, 9.0, 11.0]]),
        caption=caption,
    )


def test_faces_in_blocks_below_one_another() -> None:
    figure = faces_figure(
        [_face(c) for c in "abc"], across=2, headings=["first pair", "second pair"]
    )
    axes = np.array(figure.axes).reshape(6, 2)
    assert [a.get_title() for a in axes[[0, 0, 3], [0, 1, 0]]] == ["a", "b", "c"]
    names = ["first pair", "one", "two", "second pair", "one", "two"]
    assert [a.get_ylabel() for a in axes[:, 0]] == names
    assert axes[5, 0].get_xlabel() == "25%"
    assert [a.axison for a in axes[3:, 1]] == [False] * 3  # no face is left


def test_long_names_do_not_reach_over_their_neighbours() -> None:
    name = "001.Black_footed_Albatross/Black_Footed_Albatross_{}_796136.jpg"
    face = _face()
    models = {f"runs/{'a_long_name_of_an_experiment_' * 2}{i}/model.pt": face.cams["one"]
              for i in range(2)}  # fmt: skip
    scores = dict.fromkeys(models, 0.5)
    faces = [
        dataclasses.replace(face, cams=models, scores=scores, caption=name.format(i) * (1 + i))
        for i in range(6)
    ]
    figure = faces_figure(faces)
    figure.draw_without_rendering()
    axes = np.array(figure.axes).reshape(3, 6)
    for i, axis in enumerate(axes[0]):
        assert axis.title.get_window_extent().width < 1.3 * axis.get_window_extent().width
        said = axis.get_title().replace("\n", "")
        assert said == name.format(0) if i == 0 else said.startswith("…")
        assert said.endswith(f"{i}_796136.jpg")
    for axis, model in zip(axes[1:, 0], models, strict=True):
        assert axis.get_ylabel().replace("\n", "") == model
        label = axis.yaxis.label.get_window_extent()
        assert label.height < 1.1 * axis.get_window_extent().height


def test_all_models_are_drawn_however_many() -> None:
    bars = bars_figure(["mouth"], {f"m{i}": [(0.1, 0.0, 0.2)] for i in range(9)}, "drop")
    curves = curves_figure({f"m{i}": [{"step": 1, "train/loss_g": 0.5}] for i in range(9)})
    for figure in (bars, curves):
        (legend,) = [a.get_legend() for a in figure.axes if a.get_legend()]
        assert [t.get_text() for t in legend.get_texts()] == [f"m{i}" for i in range(9)]


def test_brackets_in_names_are_no_markup() -> None:
    table = Table(["lung [left]", "[red]"], [["[/] [bold]a", "[0.5, 1]"]], "b [mm]")
    written = io.StringIO()
    Console(width=80, file=written).print(table.to_rich())
    for text in ("lung [left]", "[red]", "[/] [bold]a", "[0.5, 1]", "b [mm]"):
        assert text in written.getvalue()


def test_words_stand_left_and_numbers_right() -> None:
    table = Table(["name", "words", "share", "none"], [["1", "a 2", "−3 (.1)", "–"]])
    assert table.to_markdown().splitlines()[1] == "| --- | --- | ---: | --- |"
    assert [c.justify for c in table.to_rich().columns] == ["left", "left", "right", "left"]
    assert Table(["a|b"], [["c"]]).to_markdown().splitlines()[0] == r"| a\|b |"


def test_a_figure_of_faces() -> None:
    figure = faces_figure([_face("a"), _face("b"), _face("c")], title="Lips")
    axes = np.array(figure.axes).reshape(3, 3)
    assert [a.get_title() for a in axes[0]] == ["a", "b", "c"]
    assert [a.get_ylabel() for a in axes[:, 0]] == ["image", "one", "two"]
    assert [a.get_xlabel() for a in axes[:, 1]] == ["", "90%", "25%"]
    drawn = axes[1, 0]
    (box,) = drawn.patches
    assert box.get_bbox().extents.tolist() == [2, 3, 9, 11]
    assert box.get_edgecolor() == to_rgba(REGION)
    (lines,) = drawn.collections
    assert len(lines.get_segments()) == 4
    np.testing.assert_allclose(lines.get_colors()[0], to_rgba(ATTENDED))
    assert not axes[0, 0].patches
    assert [t.get_text() for t in axes[2, 0].texts] == ["no evidence"]
    picture = Image.open(io.BytesIO(png_bytes(figure)))
    assert picture.size[0] > 300
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_figures_are_reproducible_and_written_whole(tmp_path: Path) -> None:
    first = png_bytes(faces_figure([_face()]))
    assert first == png_bytes(faces_figure([_face()]))
    save_figure(faces_figure([_face()]), tmp_path / "new" / "faces.png")
    assert (tmp_path / "new" / "faces.png").read_bytes() == first
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["faces.png"]


def test_faces_of_different_models_are_refused() -> None:
    other = ExplainedFace(_face().image, {"one": np.zeros((4, 4))}, {"one": 0.5})
    with pytest.raises(ValueError, match="same classifiers"):
        faces_figure([_face(), other])
    with pytest.raises(ValueError, match="no face"):
        faces_figure([])


def test_explained_faces_of_a_data_set(data: Path) -> None:
    faces = PreparedFaces(CelebA(data, "test"), 32, cache=True)
    models = {"first": _checkpoint(0), "second": _checkpoint(1)}
    explained = explain_dataset(models, faces, [3, 1], "Lips", region="mouth")
    assert [e.caption for e in explained] == [faces.names[3], faces.names[1]]
    one = explained[0]
    assert list(one.cams) == ["first", "second"]
    assert one.cams["first"].shape == (8, 8)
    image = faces[3]["image"]
    np.testing.assert_array_equal(one.image, image.permute(1, 2, 0))
    expected = Region.parse("mouth").rectangles(faces[3]["landmarks"].numpy()[None])[0]
    np.testing.assert_allclose(one.rectangles, expected)
    pixels = models["first"].preprocessing.normalize(image.as_subclass(torch.Tensor)[None])
    score = models["first"].model(pixels)[0, 0].sigmoid()
    assert one.scores["first"] == pytest.approx(float(score.detach()), abs=1e-6)


def test_explaining_files(data: Path, tmp_path: Path) -> None:
    paths = [save_checkpoint(tmp_path / n / "model.pt", _checkpoint(i)) for i, n in enumerate("ab")]
    images = [data / "img_align_celeba" / f"00000{i}.jpg" for i in (1, 2)]
    out = explain_files(paths, images, "Lips", tmp_path / "e.png", region="mouth")
    assert Image.open(out).size[1] > 300
    many = explain_files(paths[:1], images * 6, "Lips", tmp_path / "many.png")
    assert Image.open(many).size[0] < 1650  # not twelve beside one another
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg does not exist"):
        explain_files(paths, [tmp_path / "nowhere.jpg"], "Lips", tmp_path / "f.png")
    with pytest.raises(ValueError, match=r"cannot decode .*model\.pt"):
        explain_files(paths, paths[:1], "Lips", tmp_path / "f.png")
    large = save_checkpoint(tmp_path / "c" / "model.pt", _checkpoint(2, 40))
    with pytest.raises(ValueError, match="different sizes or fits .*40 px, crop"):
        explain_files([*paths, large], images, "Lips", tmp_path / "f.png")
    closer = _checkpoint(2)
    closer.preprocessing = dataclasses.replace(closer.preprocessing, fit="face")
    close = save_checkpoint(tmp_path / "d" / "model.pt", closer)
    with pytest.raises(ValueError, match="different sizes or fits .*32 px, face"):
        explain_files([*paths, close], images, "Lips", tmp_path / "f.png")
    assert not (tmp_path / "f.png").exists()


def test_explaining_photos_as_they_come(data: Path, tmp_path: Path) -> None:
    """Turned, deep, transparent, or under a name that is not UTF-8."""
    models = {"first": _checkpoint(0)}
    upright = data / "img_align_celeba" / "000002.jpg"
    expected = explain_image(models, upright, "Lips").image.astype(int)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = tmp_path / os.fsdecode(b"lat\xefn.png")
    with Image.open(upright) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
        alpha = image.copy()
    explained = explain_image(models, turned, "Lips")
    np.testing.assert_array_equal(explained.image, expected)
    assert explained.caption == "lat\N{REPLACEMENT CHARACTER}n.png"
    alpha.putalpha(0)
    alpha.save(tmp_path / "clear.png")
    assert (explain_image(models, tmp_path / "clear.png", "Lips").image == 255).all()
    grey = np.full((48, 40), 128 * 257, np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert (explain_image(models, tmp_path / "deep.png", "Lips").image == 128).all()
    checkpoint = save_checkpoint(tmp_path / "model.pt", models["first"])
    assert explain_files([checkpoint], [turned], "Lips", tmp_path / "e.png").is_file()
    turned.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot decode .*n.png: the file is empty") as caught:
        explain_files([checkpoint], [turned], "Lips", tmp_path / "e.png")
    str(caught.value).encode()


def test_curves() -> None:
    records = [
        {"epoch": 0, "step": 1, "train/loss_a": 0.7, "train/loss_g": 3.0},
        {"epoch": 0, "step": 2, "train/loss_a": 0.5, "train/loss_g": 2.0},
        {"epoch": 0, "step": 2, "valid/loss": 0.6},
    ]
    figure = curves_figure({"run": records, "control": records[2:]}, title="Curves")
    titles = [a.get_title() for a in figure.axes if a.get_visible()]
    assert titles == ["attribute loss (BCE)", "Grad-CAM loss"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {"run, training", "run, validation", "control, validation"}
    assert lines["run, training"].get_xydata().tolist() == [[1, 0.7], [2, 0.5]]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [3.0, 2.0]
    with pytest.raises(ValueError, match="no metric"):
        curves_figure({"run": [{"epoch": 0, "step": 1}]})


class _Balanced(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_self_contained() -> None:
    picture = png_bytes(faces_figure([_face()]), dpi=40)
    text = html_page(
        "A <title>",
        "lead & more",
        [
            Section("One", ["first", "2 < 3"], ["<table><tr><td>x</td></tr></table>"]),
            Section("Two", pictures=[('ten "faces"', picture)], code="fastcam demo > log"),
        ],
        footer="the end",
    )
    parser = _Balanced()
    parser.feed(text)
    assert parser.open == []
    for part in ("A &lt;title&gt;", "lead &amp; more", "2 &lt; 3", "<td>x</td>", "the end",
                 "fastcam demo &gt; log", "ten &quot;faces&quot;"):  # fmt: skip
        assert part in text
    (embedded,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(embedded) == picture
    assert not re.search(r"(src|href)=\"?(http|//|file)", text)


def test_bars_of_models_stand_beside_each_other() -> None:
    models = {"control": [(1.0, 0.5, 2.0), None], "guided": [(-0.5, -0.75, 0.25), (3, 3, 3)]}
    figure = bars_figure(["mouth", "nose"], models, "drop", "a $ title")
    (axis,) = figure.axes
    widths = [[bar.get_width() for bar in group] for group in axis.containers if len(group) == 2]
    assert widths[0][0] == 1 and np.isnan(widths[0][1])
    assert widths[1] == [-0.5, 3]
    middles = [bar.get_y() + bar.get_height() / 2 for group in axis.patches for bar in [group]]
    assert middles == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    assert [t.get_text() for t in axis.get_yticklabels()] == ["mouth", "nose"]
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["control", "guided"]
    ends = axis.collections[0].get_segments()[0][:, 0].tolist()
    assert ends == [0.5, 2]
    assert png_bytes(figure).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="expected 2 bars of one, got 1"):
        bars_figure(["mouth", "nose"], {"one": [None]}, "drop")
