"""The examples run: the loop as it stands, the comparison on few images."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_faces import write_faces

from fastcam.data import CelebA, PreparedFaces
from fastcam.models import load_checkpoint, registry

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example registers is of a script, which no other process can import."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))  # as for `python examples/NAME.py`
        spec.loader.exec_module(module)
    return module


def test_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    inside = load("loop").main(steps=3, batch_size=4)
    assert len(inside) == 3
    assert all(0 <= share <= 1 for share in inside)
    assert capsys.readouterr().out.count("energy in the region") == 3
    # The loop of the README is the script's.
    readme = (EXAMPLES.parent / "README.md").read_text()
    loop = (EXAMPLES / "loop.py").read_text()
    for line in (
        "with looking as tap:",
        "loss = balance(bce(logits, labels), guidance, tap)",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
    ):
        assert line in readme and line in loop


def test_large_batches_in_parts_print_what_whole_ones_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, parts = (load("large").main(steps=4, batch_size=32, parts=parts) for parts in (1, 5))
    assert parts == pytest.approx(whole, abs=1e-4)
    assert len(set(whole)) == 4
    assert capsys.readouterr().out.count("energy in the region") == 8


def test_several_processes_print_what_one_does() -> None:
    """A batch of three among four leaves a process without an image."""
    said = []
    for processes in (1, 4):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
            str(processes), str(EXAMPLES / "ddp.py"), "--steps", "4", "--batch-size", "3",
        ]  # fmt: skip
        paths = os.pathsep.join(path for path in (str(EXAMPLES.parent), *sys.path) if path)
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        said.append(
            re.findall(r"step \d: label loss (\S+), energy in the region (\S+)", done.stdout)
        )
    one, four = (torch.tensor([[float(n) for n in line] for line in lines]) for lines in said)
    assert one.shape == (4, 2)
    torch.testing.assert_close(four, one, atol=2e-4, rtol=0)


@pytest.mark.slow
def test_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = load("masks").run(tmp_path, count=120, epochs=2)
    assert "region writing  masks/writing/{stem}.png: in 195 images" in capsys.readouterr().out
    assert list(result.evaluations) == ["before", "control", "guided"]
    guided = result.evaluations["guided"]
    assert (guided.attribute, guided.other, guided.region) == ("loop", "flowers", "writing")
    assert guided["all"].images == 30
    assert guided.reliance is not None
    assert [h.name for h in guided.reliance.hidden] == ["writing", "all but writing"]
    assert [(v.reference, v.guided) for v in result.verdicts] == [("control", "guided")]
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert set(stored) == {"before", "control", "guided"}
    assert (tmp_path / "seen.png").stat().st_size > 10_000
    mask = np.asarray(Image.open(next((tmp_path).glob("*/masks/writing/*.png"))))
    assert mask.shape == (64, 64) and 0.02 < mask.mean() < 0.4


@pytest.mark.slow
def test_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = load("noise")
    faces = write_faces(tmp_path / "faces", 96)
    images = PreparedFaces(CelebA(faces, "train", regions=False), 64, fit="face")
    plain, noisy = (noise.Noisy(images, sigma) for sigma in (0.0, 0.5))
    seen = torch.stack([plain[i]["image"] for i in range(len(images))])
    whole = torch.stack([images[i]["image"] for i in range(len(images))])
    mirrored = (seen == whole.flip(-1)).flatten(1).all(1)
    assert torch.equal(seen[~mirrored], whole[~mirrored]) and 0 < int(mirrored.sum()) < len(images)
    added = torch.stack([noisy[i]["image"] for i in range(len(images))]) / 255 - seen / 255
    spread = added.flatten(1).std(1)
    assert 0.05 < float(spread.median()) < 0.4 < 0.5 > float(spread.max())
    assert torch.equal(noisy[3]["image"], noisy[3]["image"])
    noisy.epoch += 1
    assert not torch.equal(noisy[3]["image"] / 255 - seen[3] / 255, added[3])
    table = noise.main(faces, tmp_path / "out", epochs=1, limit=40)
    assert table.header == [
        "trained with",
        "n, β",
        "σ = 0",
        *(f"σ = 0.{i}" for i in range(1, 6)),
        "mean",
    ]
    said = [row[0] for row in table.rows if row[0]]
    assert said == ["clean images", "noisy images"]
    assert (tmp_path / "out" / "noise.md").read_text() == table.to_markdown()
    clean, dirty = (load_checkpoint(tmp_path / "out" / n / "model.pt") for n in ("clean", "noisy"))
    weight = "masks_conv.weight"
    assert not torch.equal(clean.model.state_dict()[weight], dirty.model.state_dict()[weight])
    assert table.to_markdown() in capsys.readouterr().out
