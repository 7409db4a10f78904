"""The demo at a tiny size: every part is there, stages are kept, settings are minded."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny_faces import MODEL

from fastcam.demos.guidance import DemoConfig, DemoResult, clear, demo
from fastcam.training import config as training_config
from fastcam.training.run_folder import remove_run

CONFIG = DemoConfig(
    images=40, splits=(0.6, 0.05, 0.35), model=MODEL, size=32, epochs=2, batch_size=8
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult, list[str]]:
    out = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    return out, demo(out, CONFIG, workers=1, say=said.append), said


def test_everything_is_there(finished: tuple[Path, DemoResult, list[str]]) -> None:
    out, result, said = finished
    assert list(result.evaluations) == ["before", "control", "guided"]
    assert result.table.header == ["", "before", "control", "guided"]
    assert result.evaluations["guided"]["all"].images == 14
    for name in ("faces.png", "curves.png", "reliance.png"):
        assert Image.open(out / name).size[0] > 400
    page = (out / "index.html").read_text()
    for part in (
        "What changed",
        "What the score of Wearing_Lipstick relies on",
        "Ten test faces",
        "Training",
        "Settings",
        "The same by hand",
    ):
        assert f"<h2>{part}</h2>" in page
    assert len(re.findall("data:image/png;base64,", page)) == 3
    assert all(row[0] in page for row in result.table.rows[-1:])
    tables = [
        t.to_markdown() for t in (result.table, result.difference_table, result.reliance_table)
    ]
    assert "\n".join(tables) in (out / "table.md").read_text()
    assert (out / "table.md").read_text().startswith(f"{result.verdict}\n")
    # The page begins with the verdict.
    first = re.search("<h2>What changed</h2><p>(.*?)</p>", page)
    assert first and first[1] == f"With guidance, against the control: {result.verdict.words}."
    assert page.index("<table>") > page.index(result.verdict.words)
    assert result.reliance_table.header == ["", "before", "control", "guided"]
    relied = result.evaluations["guided"].reliance
    assert relied.images == 14
    assert [h.name for h in relied.hidden[:2]] == ["mouth", "all but mouth"]
    gains = {d.name: d for d in result.differences["guided − control"]}
    for name in ("all", "E1", "not a"):
        accuracies = [result.evaluations[m][name].accuracy for m in ("guided", "control")]
        assert gains[name].mean == pytest.approx(accuracies[0] - accuracies[1])
        assert gains[name].low <= gains[name].mean <= gains[name].high
    assert "drawing 40 faces" in said[0]
    assert "index.html" in said[-1]


def test_the_control_is_the_same_fine_tuning_without_guidance(
    finished: tuple[Path, DemoResult, list[str]],
) -> None:
    out, _, _ = finished
    control, guided = (
        json.loads((out / name / "settings.json").read_text()) for name in ("control", "guided")
    )
    assert (control["guidance"].pop("pull"), guided["guidance"].pop("pull")) == (0.0, CONFIG.pull)
    assert (control.pop("without"), guided.pop("without")) == ("nothing", "outside")
    assert control == guided
    assert control["start"] == str(out / "before" / "model.pt")


def test_finished_stages_are_kept(finished: tuple[Path, DemoResult, list[str]]) -> None:
    out, result, _ = finished
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("*/model.pt")}
    assert len(stamps) == 3
    again = demo(out, CONFIG, workers=1, say=lambda text: None)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert again.evaluations == result.evaluations
    assert again.differences == result.differences
    assert again.verdict == result.verdict
    with pytest.raises(ValueError, match="other"):
        demo(out, DemoConfig(**{**vars(CONFIG), "epochs": 3}), workers=1, say=lambda text: None)


def test_other_defaults_of_the_finetuning_are_evaluated_anew(
    tmp_path: Path,
    finished: tuple[Path, DemoResult, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "demo"
    shutil.copytree(finished[0], out)
    path = out / "evaluation.json"
    found = json.loads(path.read_text())
    stale = json.loads(path.read_text())
    stale["models"]["guided"]["mean_accuracy"] = -1.0
    path.write_text(json.dumps(stale))
    monkeypatch.setattr(training_config, "MAX_PAIR_PULL", 2.0)
    for name in ("before", "control", "guided"):  # the copy's paths are others
        remove_run(out / name)
    demo(out, CONFIG, workers=1, say=lambda text: None)
    again = json.loads(path.read_text())
    assert found["settings"]["finetune"]["guidance"]["max_pair_pull"] == 1.0
    assert again["settings"]["finetune"]["guidance"]["max_pair_pull"] == 2.0
    assert again["models"]["before"] == found["models"]["before"]
    assert again["models"]["guided"]["mean_accuracy"] > 0


def test_clearing_removes_the_demo_alone(
    tmp_path: Path, finished: tuple[Path, DemoResult, list[str]]
) -> None:
    out = tmp_path / "demo"
    shutil.copytree(finished[0], out)
    mine = [out / "notes.txt", out / "guided" / "notes.txt", out / "faces" / "me.jpg"]
    for path in mine:
        path.write_text("mine")
    clear(out)
    assert sorted(p for p in out.rglob("*") if p.is_file()) == sorted(mine)
    for name in ("before", "index.html", "faces.png"):  # what lies there under the demo's names
        (out / name).mkdir() if name == "before" else (out / name).write_text("mine")
    (out / "before" / "model.pt").write_text("mine")
    clear(out)
    assert len([p for p in out.rglob("*") if p.is_file()]) == 6
    with pytest.raises(FileExistsError, match=r"faces\.png was not written by fastcam"):
        demo(out, CONFIG, workers=1, say=lambda text: None)
