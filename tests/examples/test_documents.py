"""What README and docs show runs: the loop, the commands, and that every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import fastcam
from fastcam import cli
from fastcam.cli.program import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "csrc" / "README.md"]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL)


def commands(document: Path) -> list[list[str]]:
    """The arguments of every `fastcam …` that a document shows."""
    lines = [line for block in blocks(document, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("fastcam ")]


def test_the_readme_s_loop_trains() -> None:
    torch.manual_seed(0)
    labels = torch.ones(2, 40)
    batch = torch.randn(2, 3, 224, 224), labels, torch.rand(2, 13, 13)
    names: dict[str, Any] = {"loader": [batch, batch]}
    (loop,) = blocks(ROOT / "README.md", "python")
    exec(compile(loop, "README.md", "exec"), names)
    assert 0 < names["guidance"].item() < 1 and names["guidance"].requires_grad
    assert names["balance"].state_dict() and names["criterion"].stats.valid == 2
    assert all(p.grad is not None for p in names["model"].parameters())


def test_the_maps_are_measured_as_the_loop_s_document_does() -> None:
    import torchvision

    (shown,) = (b for b in blocks(ROOT / "docs" / "loop.md", "python") if "CamIoU" in b)
    torch.manual_seed(0)
    model = torchvision.models.alexnet(num_classes=40)
    regions = torch.rand(3, 13, 13)
    regions[2] = 0
    names: dict[str, Any] = {"torch": torch, "fastcam": fastcam, "model": model}
    names["valid_loader"] = [(torch.randn(3, 3, 224, 224), torch.ones(3, 40), regions)] * 2
    names["looking"] = fastcam.ActivationTap(model, "features.11")
    with torch.no_grad():
        exec(compile(shown, "loop.md", "exec"), names)
    maps = names["maps"][:2, 0]
    wanted = ((maps * regions[:2]).sum((1, 2)) / maps.sum((1, 2))).mean()
    torch.testing.assert_close(names["energy"].compute(), wanted)
    assert names["iou"].count == 4


def test_the_readme_s_cutout_hides_all_but_the_mask() -> None:
    from torchvision import tv_tensors

    from fastcam.data import RegionCutout

    (shown,) = re.findall(r"`(RegionCutout\(.+?\))`", (ROOT / "README.md").read_text())
    cutout = eval(shown, {"RegionCutout": RegionCutout})
    assert cutout.share == 0.25
    with pytest.raises(TypeError, match=r"regions: expected text, a region or None, got 0\.25"):
        RegionCutout(0.25)  # type: ignore[arg-type]
    cutout.share = 1.0
    image, mask = torch.rand(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 2:5] = True
    hidden, _ = cutout(tv_tensors.Image(image), tv_tensors.Mask(mask))
    changed = (hidden != image).any(0)
    assert not changed[mask].any() and changed[~mask].all()


def test_photos_are_brought_into_the_layout_of_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from fastcam.data import open_folder

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    rows = ["photo,lipstick,makeup"]
    for i in range(20):
        name = f"more/IMG {i}.png"
        Image.new("RGB", (40 + i, 50)).save(tmp_path / "photos" / name)
        rows.append(f"{name},{i % 2},{int(i > 4)}")
    (tmp_path / "photos" / "people.csv").write_text("\n".join(rows))
    (shown,) = (b for b in blocks(ROOT / "docs" / "data.md", "python") if "people.csv" in b)
    exec(compile(shown, "data.md", "exec"), {})
    folder = open_folder(tmp_path / "faces")
    assert folder.attributes == ["lipstick", "makeup"] and "mouth" in folder.regions
    counts = [len(folder.images(split)) for split in ("train", "valid", "test")]
    assert counts == [16, 2, 2]
    assert folder.images("train").labels.sum(0).tolist() == [8, 11]


def test_the_loop_s_document_has_the_loss_of_finetune() -> None:
    from fastcam.models import build
    from fastcam.models.registry import model_spec
    from fastcam.training import GuidanceConfig
    from fastcam.training.guidance import Guidance

    (shown,) = (b for b in blocks(ROOT / "docs" / "loop.md", "python") if "max_pair_pull" in b)
    torch.manual_seed(0)
    model, names = build("alexnet", 40).eval(), [f"a{i}" for i in range(40)]
    images, labels, regions = torch.rand(3, 3, 96, 96), torch.ones(3, 40), torch.rand(3, 5, 5)
    labels[1] = 0
    config = GuidanceConfig(targets=(("a36", "mouth"),))
    guidance = Guidance(config, model, model_spec("alexnet"), names).eval()
    _, term = guidance(images, labels, regions[:, None])
    found: dict[str, Any] = {"fastcam": fastcam, "model": model, "images": images}
    found |= {"labels": labels, "regions": regions}
    exec(compile(shown, "loop.md", "exec"), found)
    torch.testing.assert_close(found["guidance"], term.losses["energy"], check_stride=False)


@pytest.mark.slow
def test_the_compiled_trunk_of_the_loop_s_document_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    (shown,) = (b for b in blocks(ROOT / "docs" / "loop.md", "python") if "torch.compile" in b)
    gradients = []
    for compiled in (True, False):
        torch.manual_seed(0)
        model = torchvision.models.resnet18(num_classes=2)
        names: dict[str, Any] = {"torch": torch, "fastcam": fastcam, "model": model}
        names["looking"] = fastcam.ActivationTap(model, "layer4")
        if compiled:
            exec(compile(shown, "loop.md", "exec"), names)
        with names["looking"] as tap:
            logits = model(torch.rand(2, 3, 64, 64))
            criterion = fastcam.EnergyCamLoss(head="closed")
            criterion(logits, tap, torch.rand(2, 2, 2), targets=[0, 1]).backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_the_readme_s_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other as they stand, on few faces and for one epoch."""
    monkeypatch.chdir(tmp_path)
    shown = commands(ROOT / "README.md")
    assert [verb for verb, *_ in shown] == [
        "synth", "train", "finetune", "finetune", "evaluate", "explain",
    ]  # fmt: skip
    few = {
        "synth": ["-n", "80"],
        "train": ["--epochs", "1", "--attributes", "Wearing_Lipstick,Heavy_Makeup"],
        "evaluate": ["--reliance-images", "12"],
    }
    for verb, *arguments in shown:
        assert cli.main([verb, *arguments, *few.get(verb, [])]) == 0, arguments
    assert (tmp_path / "runs" / "finetune" / "model.pt").is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_have_the_options_that_are_shown(document: Path) -> None:
    import typer.main

    for verb, *arguments in commands(document):
        command: Any = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
        if verb == "attention":
            verb, *arguments = arguments
            command = command.commands[verb]
        command.make_context(verb, list(arguments))  # a UsageError if it has no such option


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        if anchor:
            prose = re.sub(r"```.*?```", "", target.read_text(), flags=re.DOTALL)
            titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
            }, link
