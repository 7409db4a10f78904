"""Data that change under an experiment: what was made of the old ones is not taken for new."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from tiny_faces import write_faces

from fastcam.data.digests import DIGESTS, data_digests
from fastcam.data.landmarks import LANDMARK_TABLE
from fastcam.data.tables import ATTRIBUTE_TABLE
from fastcam.evaluation import Predictions
from fastcam.evaluation.reliance_result import Reliance
from fastcam.experiments import ExperimentConfig, run
from fastcam.experiments.judge import Judged, keep
from fastcam.experiments.runner import EXPERIMENTS
from fastcam.experiments.study import Study
from fastcam.report import Table
from fastcam.report.figure import new_figure


@dataclass(frozen=True)
class _Counted:
    number: int

    def figure(self) -> Figure:
        return new_figure(1, 1)

    def tables(self) -> list[Table]:
        return [Table(["number"], [[str(self.number)]], "")]

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the runs of an experiment that does nothing."""
    runs: list[int] = []

    def experiment(_: Study) -> _Counted:
        runs.append(len(runs))
        return _Counted(runs[-1])

    monkeypatch.setitem(EXPERIMENTS, "table1", experiment)
    return runs


def _run(data: Path, out: Path) -> int:
    saved = run("table1", out, ExperimentConfig(data=str(data)), say=lambda _: None)
    return int(saved.values["number"])


def test_new_landmarks_and_labels_are_told(tmp_path: Path, made: list[int]) -> None:
    data, out = write_faces(tmp_path / "faces", 16, landmarks=False), tmp_path / "out"
    other = write_faces(tmp_path / "other", 16, seed=1)
    assert _run(data, out) == _run(data, out) == 0
    for name in ("config.json", "table1.json"):
        content = json.loads((out / name).read_text())
        assert data_digests(data).items() <= content.get("settings", content).items()
    shutil.copy(other / LANDMARK_TABLE, data / LANDMARK_TABLE)
    with pytest.raises(ValueError, match=r"faces as it was: its landmarks have changed since"):
        _run(data, out)
    shutil.copy(other / ATTRIBUTE_TABLE, data / ATTRIBUTE_TABLE)
    with pytest.raises(ValueError, match="its labels and landmarks have changed since"):
        _run(data, out)
    assert made == [0]
    assert _run(data, tmp_path / "another") == 1


def test_however_the_path_of_the_data_is_written(
    tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_faces(tmp_path / "faces", 24)
    assert _run(data, tmp_path / "out") == 0
    monkeypatch.chdir(tmp_path)
    assert _run(Path("faces"), tmp_path / "out") == 0
    with pytest.raises(ValueError, match=r"other settings \(data\)"):
        _run(write_faces(tmp_path / "others", 24), tmp_path / "out")


def test_a_folder_of_an_earlier_version_is_read(tmp_path: Path, made: list[int]) -> None:
    """It tells nothing of its data; from then on it does."""
    data, out = write_faces(tmp_path / "faces", 16), tmp_path / "out"
    _run(data, out)
    for name in ("config.json", "table1.json"):
        content = json.loads((out / name).read_text())
        settings = content.get("settings", content)
        for digest in DIGESTS:
            del settings[digest]
        (out / name).write_text(json.dumps(content))
    assert _run(data, out) == 0 and made == [0]
    (data / LANDMARK_TABLE).unlink()
    with pytest.raises(ValueError, match="its landmarks have changed since"):
        _run(data, out)


def test_kept_judgements_are_of_the_same_data(tmp_path: Path) -> None:
    path, seen = tmp_path / "judged.pt", []

    def make() -> Judged:
        seen.append(1)
        predictions = Predictions(torch.full((2, 1), float(len(seen))), torch.ones(2, 1))
        return Judged(predictions, {}, Reliance("a", "mouth", "mean", 2, 1.0, (), None))

    def logit(**digests: str) -> float:
        return float(keep(path, {"seed": 0, **digests}, make).predictions.logits[0, 0])

    assert logit() == 1  # of an earlier version
    assert logit(labels_sha256="a", landmarks_sha256="b") == 1
    path.unlink()
    assert logit(labels_sha256="a", landmarks_sha256="b") == 2
    assert logit(labels_sha256="a", landmarks_sha256="b") == 2
    assert logit(labels_sha256="a", landmarks_sha256="c") == 3
    assert len(seen) == 3
