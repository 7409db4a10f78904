"""The command line: the same path as the library, help that teaches, one line for bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tiny_faces import ATTRIBUTES, MODEL, TinyNet, write_faces

import fastcam
import fastcam.data
from fastcam import cli
from fastcam.cli import program
from fastcam.models import Checkpoint, load_checkpoint, save_checkpoint
from fastcam.models.checkpoint import Preprocessing
from fastcam.training import TrainConfig

COMMANDS = (
    "synth",
    "landmarks",
    "train",
    "finetune",
    "evaluate",
    "explain",
    "layers",
    "demo",
    "info",
    "init",
    "experiment",
)
FAST = ["--batch-size", "12", "--device", "cpu", "--workers", "1"]

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    checkpoint = Checkpoint(TinyNet(3), MODEL, list(ATTRIBUTES), Preprocessing(32))
    return save_checkpoint(tmp_path / "start" / "model.pt", checkpoint)


def _run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def test_a_note_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb(**_: object) -> None:
        warnings.simplefilter("always")
        for text in ("one", "two", "one"):
            warnings.warn(text, stacklevel=1)

    monkeypatch.setattr(program, "app", verb)
    for _ in range(2):  # of each command
        assert _run("train") == 0
        assert capsys.readouterr().err == "fastcam: note: one\nfastcam: note: two\n"


def test_train_finetune_evaluate_explain(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    train = ["train", data, "-o", before, "--model", MODEL, "--size", 32, "--epochs", 2, *FAST]
    assert _run(*train) == 0
    assert "landmarks" not in capsys.readouterr().out  # no region is drawn
    tune = ["finetune", before / "model.pt", data, "-a", "Lips", "-r", "mouth", "-o", after, *FAST]
    assert _run(*tune, "--w-g", "3", "--no-sharpness-warmup", "--clip", "2") == 0
    assert "24 ground_truth" in capsys.readouterr().out
    history = load_checkpoint(after / "model.pt").history
    assert [h["settings"]["epochs"] for h in history] == [2, 1]
    guidance = history[1]["settings"]["guidance"]
    assert (guidance["w_g"], guidance["targets"]) == (3.0, [["Lips", "mouth"]])
    assert guidance["sharpness_warmup"] is False
    assert history[1]["settings"]["clip"] == 2.0
    models = [before / "model.pt", after / "model.pt"]
    evaluate = ["evaluate", *models, data, "-a", "Lips", "-b", "Eyes", "-r", "mouth"]
    assert _run(*evaluate, "-o", tmp_path / "e", "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert "before" in out
    assert "after" in out
    found = json.loads((tmp_path / "e.json").read_text())
    assert set(found) == {"before", "after"}
    assert f"after against before: {found['after']['verdict']['words']}. energy in mouth" in out
    assert (
        "The map moved: the share of Grad-CAM energy in the region rose by more than 5 points"
        in out
    )
    assert found["after"]["reliance"]["images"] == 12
    assert "all but mouth hidden (n = " in out
    assert _run(*evaluate, "--fill", "swap", "--hide", "nose,chin", "--reliance-images", 7) == 0
    swapped = " ".join(capsys.readouterr().out.split())  # titles are folded
    assert "another image in its place; 95% intervals; 7 images" in swapped
    assert "nose,chin hidden" in swapped
    assert _run(*evaluate, "--no-reliance") == 0
    plain = capsys.readouterr().out
    assert "the reliance is not known" in plain
    assert "hidden" not in plain
    image = data / "img_align_celeba" / "000001.jpg"
    explain = ["explain", models[0], image, "-a", "Lips", "-r", "mouth", "--beside", models[1]]
    assert _run(*explain, "-o", tmp_path / "e.png") == 0
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")


def test_layers_lists_what_a_tap_can_take(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("layers", model) == 0
    out = capsys.readouterr().out
    assert "32x32 pixels" in out
    assert "features.3 (default)" in out
    assert _run("layers", "alexnet", "--size", 224) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "features.11 (default)" in x)
    assert [cell.strip() for cell in line.strip("│").split("│")][1:] == [
        "ReLU", "256", "13x13", "163x163", "73%", "",
    ]  # fmt: skip
    assert _run("layers", "alexnett") == 2
    assert "unknown model 'alexnett' (did you mean 'alexnet'?)" in capsys.readouterr().err


def test_defaults_are_those_of_the_paper_or_measured(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("fastcam.cli.training._run", lambda config, out: seen.append(config))
    assert _run("train", data) == 0
    assert _run("finetune", model, data, "-a", "Lips", "-r", "mouth") == 0
    training, tuning = seen
    for config in seen:
        assert (config.momentum, config.clip, config.batch_size) == (0.9, 1.0, 32)
    assert training == TrainConfig.from_scratch(data)
    assert (training.size, training.model, training.patience) == (224, "alexnet", 0)
    assert (training.lr, training.schedule, training.epochs) == (0.05, "cosine", None)
    assert (tuning.lr, tuning.epochs, tuning.w_a) == (0.01, 1, 1.0)
    guidance = tuning.guidance
    assert (guidance.pull, guidance.w_g, guidance.max_pair_pull) == (1.0, None, 1.0)
    assert (guidance.losses, tuning.without) == (("energy",), "outside")
    assert tuning.schedule == "constant"
    assert (guidance.guide, guidance.region_weight) == ("positives", 3.0)
    assert guidance.sharpness_warmup
    assert tuning == TrainConfig.finetune(model, data, guidance)  # the library's are the same


def test_a_training_by_default_is_by_its_network(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[TrainConfig] = []
    monkeypatch.setattr("fastcam.cli.training._run", lambda config, out: seen.append(config))
    given = [
        ["--model", "attention"],
        ["--model", "attention", "--size", 96, "--lr", 0.05, "--clip", 0, "--epochs", 2],
        ["--model", "vgg11_bn"],
        ["--model", "timm:vgg16"],
        ["--model", "resnet50", "--weights", "DEFAULT"],
        ["--optimizer", "lars", "--lr", 30],
    ]
    for more in given:
        assert _run("train", data, *more) == 0
    assert [(c.size, c.lr, c.clip, c.epochs) for c in seen] == [
        (64, 0.1, 5.0, None),
        (96, 0.05, 0.0, 2),
        (224, 0.05, 1.0, None),
        (224, 0.05, 1.0, None),
        (224, 0.01, 1.0, None),
        (224, 30.0, 1.0, None),
    ]
    assert _run("train", data, "--optimizer", "lars") == 2
    assert "lr: lars has rates of its own; expected one beside it" in capsys.readouterr().err


def test_synth_writes_a_data_set(tmp_path: Path) -> None:
    pairs = ["--cooccurrence", "Wearing_Lipstick:Heavy_Makeup=1.0"]
    splits = ["--splits", "0.5", "0.25", "0.25"]
    assert _run("synth", tmp_path / "f", "-n", 4, "--workers", 1, *pairs, *splits) == 0
    faces = fastcam.data.CelebA(tmp_path / "f", "all")
    labels = faces.labels[:, [faces.attribute(a) for a in ("Wearing_Lipstick", "Heavy_Makeup")]]
    assert torch.equal(labels[:, 0], labels[:, 1])
    assert len(fastcam.data.CelebA(tmp_path / "f", "test")) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(command, "--help") == 0
    text = capsys.readouterr().out
    assert f"fastcam {command}" in text
    if command != "info":
        assert "Example" in text


def test_version_info_and_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--version") == 0
    assert capsys.readouterr().out == f"fastcam {fastcam.__version__}\n"
    assert _run("info") == 0
    assert json.loads(capsys.readouterr().out)["version"] == fastcam.__version__
    assert _run() == 0
    overview = capsys.readouterr().out
    assert all(c in overview for c in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "DATA/nowhere"], "nowhere does not exist"),
        (["train", "DATA", "--model", "nonet"], "unknown model 'nonet'; known: alexnet"),
        (["train", "DATA", "--attributes", "Lips,Nose"], "unknown attribute 'Nose'"),
        (["train", "DATA", "--lr", "fast"], "Invalid value for '--lr'"),
        (["train", "DATA", "--lr", "0"], "lr: expected a number above 0 and finite, got 0.0"),
        (["train", "DATA", "--device", "abacus"], "device: expected one of"),
        (["train"], "Missing argument"),
        (["trian", "DATA"], "No such command 'trian'"),
        (["finetune", "MODEL", "DATA", "-a", "Lips", "-r", "beard"], "beard"),
        (["finetune", "MODEL", "DATA", "-a", "Nose", "-r", "mouth"], "unknown attribute 'Nose'"),
        (
            ["finetune", "MODEL", "DATA", "-a", "Lips"],
            "give one --region for each",
        ),
        (["finetune", "MODEL", "DATA", "-a", "Lips", "-a", "Eyes", "-r", "mouth"], "2 and 1"),
        (
            ["finetune", "DATA/none.pt", "DATA", "-a", "Lips", "-r", "mouth"],
            "none.pt does not exist",
        ),
        (["evaluate", "MODEL", "-a", "Lips"], "at least one checkpoint, then the data folder"),
        (["evaluate", "MODEL", "DATA", "-a", "Lips", "--split", "tset"], "split: expected one of"),
        (["evaluate", "MODEL", "DATA", "-a", "Lips", "--limit", "0"], "limit: expected at least 1"),
        (["evaluate", "MODEL", "DATA", "-a", "Lips", "--fill", "grey"], "fill: expected one of"),
        (["evaluate", "MODEL", "DATA", "-a", "Lips", "--hide", "hat"], "no part called 'hat'"),
        (
            ["evaluate", "MODEL", "DATA", "-a", "Lips", "--reliance-images", "0"],
            "--reliance-images: expected at least 1, got 0",
        ),
        (
            ["evaluate", "MODEL", "DATA", "-a", "Lips", "-r", "mouth", "--threshold", "7"],
            "threshold: expected a number in (0, 1), got 7.0",
        ),
        (
            ["finetune", "MODEL", "DATA", "-a", "Lips", "-r", "mouth", "--w-g", "0", "--head", "x"],
            "head: expected one of",
        ),
        (["explain", "MODEL", "DATA/img_align_celeba", "-a", "Lips"], "is a folder; name files"),
        (["explain", "MODEL", "DATA/x.jpg", "-a", "Lips", "--threshold", "-2"], "in (0, 1), got"),
        (["explain", "MODEL", "DATA/x.jpg", "-a", "Lips", "-o", "DATA"], "got the folder"),
        (["explain", "MODEL", "DATA/none.jpg", "-a", "Lips"], "none.jpg does not exist"),
        (["synth", "OUT", "--cooccurrence", "A=B"], "--cooccurrence: expected A:B=p, got 'A=B'"),
        (["synth", "OUT", "-n", "0"], "num_images"),
        (["landmarks", "DATA/nowhere"], "nowhere is not a folder"),
        (["landmarks", "DATA/img_align_celeba"], "is not in CelebA's layout, in which faces have"),
        (["landmarks", "MODEL"], "model.pt is a file; expected the folder of a data set"),
        (["train", "MODEL"], "model.pt is a file; expected the folder of a data set"),
        (["evaluate", "DATA", "MODEL", "-a", "Lips"], "the data folder comes last, after the"),
        (["evaluate", "DATA", "DATA", "-a", "Lips"], "is a folder; name a file such as"),
        (["finetune", "DATA", "MODEL", "-a", "Lips", "-r", "mouth"], "model.pt is a file; expec"),
        (["explain", "DATA/img_align_celeba/000001.jpg", "MODEL", "-a", "Lips"], "a JPEG picture"),
        (["explain", "DATA/landmarks68.npz", "DATA/x.jpg", "-a", "Lips"], "zip archive of someth"),
        (["synth", "MODEL"], "expected a folder, got the file"),
        (["synth", "MODEL/faces"], "model.pt is a file"),
        (["evaluate", "MODEL", "DATA", "-a", "Lips", "-o", "MODEL/e"], "model.pt is a file"),
        (["attention", "curves", "-o", "MODEL/e"], "model.pt is a file"),
        (["explain", "MODEL", "DATA/x.jpg", "-a", "Lips", "-o", "MODEL"], "ending in .png, .jpg"),
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
    places = {"DATA": str(data), "MODEL": str(model), "OUT": str(tmp_path / "out")}
    filled = [
        a if a.partition("/")[0] not in places else a.replace(*_first(a, places), 1)
        for a in arguments
    ]
    if arguments[0] in ("train", "finetune") and len(arguments) > 1:
        filled += ["-o", str(tmp_path / "run")]
    assert _run(*filled) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("fastcam: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_folder_for_a_run_that_is_a_file(
    data: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (model, model / "run"):
        assert _run("train", data, "-o", out, "--model", MODEL, *FAST) == 2
        said = capsys.readouterr().err
        assert f"{model} is a file" in said and said.count("\n") == 1


def test_control_characters_of_names_are_not_printed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("explain", tmp_path / "a\033[31m\nb.pt", "x.jpg", "-a", "Lips") == 2
    said = capsys.readouterr().err
    assert "\033" not in said and said.count("\n") == 1 and r"\x1b[31m b.pt" in said


def _first(argument: str, places: dict[str, str]) -> tuple[str, str]:
    name = argument.partition("/")[0]
    return name, places[name]


def test_a_missing_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    assert _run("landmarks", data, "-o", tmp_path / "points.npz") == 2
    error = capsys.readouterr().err
    assert "pip install 'fastcam[landmarks]'" in error
    assert error.count("\n") == 1


def test_a_part_of_an_extra_that_is_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [n for n in sys.modules if n.startswith("fastcam.report.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "fastcam.evaluation.explain", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert _run("explain", tmp_path / "model.pt", tmp_path / "1.png", "-a", "Lips") == 2
    error = capsys.readouterr().err
    assert "matplotlib" in error and error.endswith(
        "; install it with: pip install 'fastcam[all]'\n"
    )
    assert error.count("\n") == 1


def test_it_runs_without_the_texts_of_python_s_optimisation() -> None:
    command = [sys.executable, "-OO", "-m", "fastcam", "finetune", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "--loss" in done.stdout


def test_without_typer_the_script_names_the_extra() -> None:
    code = "import sys; sys.modules['typer'] = None; from fastcam.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'fastcam[train]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_errors_of_our_own_keep_their_traceback(
    monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("FASTCAM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="lr: expected a number above 0"):
        _run("train", data, "--lr", "0", "-o", tmp_path / "run")


def test_the_module_runs_and_is_quick_to_help() -> None:
    code = (
        "import sys; from fastcam.cli.program import main; assert main(['train', '--help']) == 0; "
        "heavy = [m for m in ('lightning', 'torchvision', 'matplotlib', 'torchmetrics')"
        " if m in sys.modules]; assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    wrong = [sys.executable, "-m", "fastcam", "nothing"]
    result = subprocess.run(wrong, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "fastcam: error: No such command 'nothing'.\n"


def test_progress_bars_on_a_terminal(data: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    out = tmp_path / "run"
    code = (
        f"import sys; sys.path.insert(0, {str(SUPPORT)!r}); import tiny_faces;"
        "from fastcam.cli.program import main;"
        f"sys.exit(main(['train', {str(data)!r}, '-o', {str(out)!r}, '--model', 'tiny',"
        " '--size', '32', '--epochs', '1', '--device', 'cpu', '--no-cache']))"
    )
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # the terminal closes with its last writer
            break
        if not chunk:
            break
        shown += chunk
    assert process.wait() == 0
    text = shown.decode(errors="replace")
    for part in ("reading train images", "reading valid images", "epoch 1 of 1", "loss", "24/24"):
        assert part in text, text
