"""``fastcam experiment NAME --quick``, as the help promises it: minutes, on drawn faces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastcam import cli


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quick")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["table1", "figure6", "figure7", "bias", "backbones"])
def test_it_gives_tables_and_a_figure(name: str, out: Path) -> None:
    assert cli.main(["experiment", name, "--quick", "--jobs", "2", "-o", str(out)]) == 0
    content = json.loads((out / f"{name}.json").read_text())
    assert content["settings"]["brief"] is True
    assert all(table["rows"] for table in content["tables"])
    assert (out / f"{name}.png").stat().st_size > 10_000
    assert (out / f"{name}.csv").is_file() and (out / f"{name}.md").is_file()
    if name == "table1":
        (networks,) = [v["networks"] for v in content["values"]["pairs"].values()]
        # Half have the attribute; what 600 images teach is better than a guess, and the maps move.
        assert networks["control"][0]["average precision"] > 0.55
        assert networks["energy"][0]["energy"] > 1.5 * networks["control"][0]["energy"]
