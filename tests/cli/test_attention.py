"""The verbs of the attention network: figure, table and numbers, help, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attention_fixtures import data, model
from PIL import Image
from tiny_faces import ATTRIBUTES, MODEL, TinyNet, write_faces

from fastcam import analysis, cli
from fastcam.data import CelebA
from fastcam.models import Checkpoint, save_checkpoint
from fastcam.models.checkpoint import Preprocessing

__all__ = ["data", "model"]

VERBS = {
    "attributes": ["MODEL", "DATA"],
    "masks": ["MODEL", "DATA", "-a", "Lips", "-a", "Dark", "--images", 4],
    "correlation": ["MODEL", "DATA", "-a", "Eyes", "-c", 7, "--of", "masks"],
    "curves": ["--pair", "1,0", "--pair", "4,0.5"],
    "robustness": ["MODEL", "DATA", "--pair", "4,1", "--sigmas", "0,0.4"],
    "ablation": ["DATA", "--seeds", "0", "--size", 32, "--epochs", 1, "--limit-train", 8],
}


def _run(*arguments: object, **places: object) -> int:
    return cli.main([str(places.get(str(a), a)) for a in arguments])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_writes_figure_and_table(
    verb: str, data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = tmp_path / "new" / verb
    device = [] if verb == "curves" else ["--device", "cpu", "--workers", 1]
    assert _run("attention", verb, *VERBS[verb], *device, "-o", prefix, DATA=data, MODEL=model) == 0
    assert str(prefix) in capsys.readouterr().out.replace("\n", "")
    assert Image.open(f"{prefix}.png").size[0] > 400
    saved = analysis.load(prefix)
    assert saved is not None
    text = Path(f"{prefix}.md").read_text()
    assert all(table.to_markdown() in text for table in saved.tables)
    assert json.loads(Path(f"{prefix}.json").read_text())["values"] == saved.values
    if verb == "masks":
        assert saved.settings["attributes"] == ["Lips", "Dark"]
        assert saved.settings["images"] == 4
    if verb == "correlation":
        assert (saved.settings["attributes"], saved.settings["channels"]) == (["Eyes"], [7])
    assert analysis.load(tmp_path / "nothing") is None


@pytest.mark.parametrize("verb", [*VERBS, "demo"])
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("attention", verb, "--help") == 0
    text = capsys.readouterr().out
    assert f"fastcam attention {verb}" in text
    assert "Example" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attributes", "PLAIN", "DATA"], "'tiny', which is no attention network"),
        (["robustness", "PLAIN", "DATA"], "'tiny', which is no attention network"),
        (["attributes", "MODEL", "DATA", "--limit", "0"], "limit: expected at least 1"),
        (["masks", "MODEL", "DATA", "-a", "Nose"], "unknown attribute 'Nose'"),
        (["correlation", "MODEL", "DATA", "-c", "8"], "channels: expected ids from 0 to 7"),
        (["correlation", "MODEL", "DATA", "--of", "x"], "of: expected one of"),
        (["curves", "--pair", "4"], "--pair: expected n,β, got '4'"),
        (["curves", "--pair", "4,b"], "--pair: expected numbers"),
        (["robustness", "MODEL", "DATA", "--sigmas", "0,x"], "--sigmas: expected numbers"),
        (["robustness", "MODEL", "DATA", "--sigmas=-1"], "sigmas: expected at least one"),
        (["ablation", "DATA", "--seeds", "a"], "--seeds: expected numbers"),
        (["masks", "MODEL", "DATA"], "Missing option '--attribute'"),
        (["curves", "-o", "DATA/list_attr_celeba.txt/curves"], "list_attr_celeba.txt"),
        (["nothing"], "No such command 'nothing'"),
    ],
)
def test_bad_input_gets_one_line(
    arguments: list[str],
    message: str,
    data: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = Checkpoint(TinyNet(3), MODEL, list(ATTRIBUTES), Preprocessing(32))
    path = save_checkpoint(tmp_path / "plain.pt", plain)
    arguments = [a.replace("DATA/", f"{data}/") for a in arguments]
    assert _run("attention", *arguments, DATA=data, MODEL=model, PLAIN=path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_advice_on_landmarks_that_no_analysis_uses(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_faces(tmp_path / "faces", landmarks=False)
    out = ["-o", tmp_path / "attributes", "--device", "cpu", "--workers", 1]
    assert _run("attention", "attributes", *VERBS["attributes"], *out, DATA=data, MODEL=model) == 0
    assert capsys.readouterr().err == ""
    with pytest.warns(UserWarning, match="fastcam landmarks"):
        CelebA(data, "test")


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("attention") == 2
    output = capsys.readouterr()
    assert "robustness" in output.out + output.err
    assert "error" not in output.err
