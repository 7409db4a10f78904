"""The verb of the experiments: what is given beside ``--quick``, and the list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastcam import cli
from fastcam.experiments import ExperimentConfig, runner


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[ExperimentConfig]:
    """Settings of the experiments that were run."""
    found: list[ExperimentConfig] = []

    def run(name: str, out: Path, config: ExperimentConfig, **_: Any) -> SimpleNamespace:
        found.append(config)
        return SimpleNamespace(tables=[])

    monkeypatch.setattr(runner, "run", run)
    return found


def test_what_is_given_wins_over_quick(ran: list[ExperimentConfig]) -> None:
    quick = ["experiment", "table1", "--quick"]
    assert cli.main(quick) == 0
    # 128 pixels are the default, and meant where they are named.
    given = ["--seeds", "2", "--size", "128", "--epochs", "64", "--lr", "0.5", "-n", "200"]
    assert cli.main([*quick, *given]) == 0
    assert ran[0] == ExperimentConfig().quick()
    named = {"seeds": 2, "size": 128, "epochs": 64, "lr": 0.5, "images": 200}
    assert ran[1] == replace(ran[0], **named)  # type: ignore[arg-type]
    assert ran[0].size != ExperimentConfig().size == 128


def test_the_list_says_how_its_minutes_were_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["experiment", "list"]) == 0
    assert "minutes on two cores, --jobs 2" in capsys.readouterr().out
