"""Training and fine-tuning: results, determinism, resumption, control and guidance."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_faces import ATTRIBUTES, MODEL, write_faces
from torch import Tensor

from fastcam.evaluation import evaluate
from fastcam.models import load_checkpoint
from fastcam.training import GuidanceConfig, TrainConfig, TrainingDiverged, train
from fastcam.training.callbacks import read_history
from fastcam.training.guidance import cell_weights, guided_pairs, warm_sharpness
from fastcam.training.task import AttributeTask

GUIDANCE = GuidanceConfig((("Lips", "mouth"),), sharpness=4.0, sharpness_warmup=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 96)


def _config(data: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        str(data), model=MODEL, size=32, epochs=3, patience=0, batch_size=10, lr=0.05,
        clip=0.0, device="cpu", workers=1,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    return train(_config(data, epochs=25), out).checkpoint


def _weights(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path).model.state_dict()


def _same(first: Path, second: Path) -> bool:
    one, two = _weights(first), _weights(second)
    return all(torch.equal(one[k], two[k]) for k in one)


def test_training_learns_and_leaves_a_checkpoint(data: Path, trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    assert checkpoint.attributes == ["Lips", "Eyes", "Dark"]
    assert (checkpoint.preprocessing.size, checkpoint.model_name) == (32, MODEL)
    assert checkpoint.history[0]["settings"]["epochs"] == 25
    records = read_history(trained.parent / "history.csv")
    losses = [r["train/loss_a"] for r in records if "train/loss_a" in r]
    assert len(losses) == 25 * 5
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert [r["epoch"] for r in records if "valid/loss" in r] == list(range(25))
    assert checkpoint.history[0]["metrics"]["valid/loss"] == records[-1]["valid/loss"]
    assert evaluate(checkpoint, data, attribute="Lips")["all"].accuracy > 0.8
    left = sorted(p.name for p in trained.parent.iterdir())
    assert left == ["history.csv", "model.pt", "result.json", "settings.json"]


def test_bfloat16_trains_and_guides_in_autocast(
    data: Path, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    step = AttributeTask.training_step

    def watched(self: AttributeTask, batch: Any, index: int) -> Tensor:
        loss = step(self, batch, index)
        seen.append((self.model(self.preprocessing.normalize(batch["image"])).dtype, loss.dtype))
        return loss

    monkeypatch.setattr(AttributeTask, "training_step", watched)
    config = _config(
        data, start=str(trained), epochs=1, guidance=GUIDANCE, lr=0.01, precision="bfloat16"
    )
    low = train(config, tmp_path / "low").checkpoint
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    assert {w.dtype for w in _weights(low).values()} == {torch.float32}
    seen.clear()
    full = train(dataclasses.replace(config, precision="float32"), tmp_path / "full").checkpoint
    assert set(seen) == {(torch.float32, torch.float32)}
    before, one, two = _weights(trained), _weights(low), _weights(full)
    moved = sum(float((two[k] - before[k]).square().sum()) for k in two) ** 0.5
    apart = sum(float((two[k] - one[k]).square().sum()) for k in two) ** 0.5
    assert 0 < apart < 0.5 * moved
    with pytest.raises(ValueError, match="precision must be one of .* got 'float8'"):
        _config(data, precision="float8")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_kept() -> None:
    code = (
        "import resource, sys, torch\n"
        "from fastcam.training import keep_freed_memory\n"
        "if sys.argv[1] == 'keep':\n"
        "    assert keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10):\n"  # the heap finds its shape
        "    torch.ones(20_000_000)\n"
        "before = faults()\n"
        "for _ in range(4):\n"
        "    torch.ones(20_000_000)\n"
        "print(faults() - before)\n"
    )
    keep, give = (
        int(subprocess.run(
            [sys.executable, "-c", code, word], check=True, capture_output=True, text=True
        ).stdout)
        for word in ("keep", "give")
    )  # fmt: skip
    assert keep < 0.1 * give  # pages of 4 × 80 MB


def test_the_seed_decides_everything(data: Path, tmp_path: Path) -> None:
    runs = [
        train(_config(data, seed=seed, augment="full"), tmp_path / name).checkpoint
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert _same(runs[0], runs[1])
    assert not _same(runs[0], runs[2])


class _Killed(Exception):
    pass


@pytest.mark.parametrize(
    "step", [3, 5, 7, 10], ids=["in 1st", "end of 1st", "in 2nd", "end of 2nd"]
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    config = _config(data, guidance=GUIDANCE, clip=5.0, patience=2, schedule="cosine")
    whole = train(config, tmp_path / "whole")
    kept = AttributeTask.training_step

    def dies(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == step:
            raise _Killed
        return kept(self, batch, batch_idx)

    broken = dataclasses.replace(config, save_minutes=0.0)
    monkeypatch.setattr(AttributeTask, "training_step", dies)
    with pytest.raises(_Killed):
        train(broken, tmp_path / "broken")
    assert (tmp_path / "broken" / "last.ckpt").is_file()
    assert not (tmp_path / "broken" / "model.pt").exists()
    steps: list[int] = []

    def counts(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor:
        steps.append(self.trainer.global_step)
        return kept(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", counts)
    resumed = train(broken, tmp_path / "broken")
    assert steps == list(range(step, 15))
    assert _same(whole.checkpoint, resumed.checkpoint)
    assert read_history(whole.history) == read_history(resumed.history)
    assert resumed.epochs == whole.epochs == 3


STOPS = (
    "import os, signal, sys\n"
    "import tiny_faces\n"
    "from fastcam.training import TrainConfig, train\n"
    "from fastcam.training.task import AttributeTask\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # also where it was ignored
    "step, out = AttributeTask.training_step, sys.argv[1]\n"
    "def stops(*a):\n"
    "    if os.path.exists(os.path.join(out, 'last.ckpt')):\n"
    "        print('saved', flush=True)\n"
    "        sys.stdin.read()\n"  # for ever: a signal ends it
    "    return step(*a)\n"
    "AttributeTask.training_step = stops\n"
)


def _until_saved(code: str, out: Path) -> subprocess.Popen[str]:
    """A process that trains and stands still in the step after its first save."""
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS + code, str(out)],
        env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.readline()
    if said != "saved\n":
        pytest.fail(f"{said}{process.communicate()}")
    return process


def test_a_process_killed_for_good_resumes(data: Path, tmp_path: Path) -> None:
    code = (
        f"train(TrainConfig({str(data)!r}, model='tiny', size=32, epochs=3, patience=0,"
        " batch_size=10, lr=0.05, clip=0.0, device='cpu', workers=1, save_minutes=0.0), out)\n"
    )
    out = tmp_path / "run"
    process = _until_saved(code, out)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "model.pt").exists()
    resumed = train(_config(data), out)
    assert _same(resumed.checkpoint, train(_config(data), tmp_path / "whole").checkpoint)


def test_a_finished_run_is_kept_and_another_is_refused(data: Path, tmp_path: Path) -> None:
    first = train(_config(data, epochs=1), tmp_path)
    stamp = first.checkpoint.stat().st_mtime_ns
    again = train(_config(data, epochs=1, workers=2), tmp_path)  # workers decide no result
    assert again == dataclasses.replace(first, kept=True) and not first.kept
    assert again.checkpoint.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"holds a run with other settings \(epochs, lr\)"):
        train(_config(data, epochs=2, lr=0.01), tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"data": "nowhere"}, {"start": "nowhere.pt"}, {"attributes": ("Lipz",)}], ids=str
)
def test_a_run_that_never_began_holds_no_folder(
    data: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, FileNotFoundError)):
        train(dataclasses.replace(_config(data, epochs=1), **wrong), tmp_path)
    assert train(_config(data, epochs=1), tmp_path).epochs == 1


def test_another_start_or_other_labels_of_the_same_name_are_another_run(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "faces", 48)
    first = _config(data, epochs=1)
    base = train(first, tmp_path / "base").checkpoint
    start = tmp_path / "start.pt"
    shutil.copy(base, start)
    tune = dataclasses.replace(first, start=str(start), seed=1)
    train(tune, tmp_path / "tuned")
    shutil.copy(train(dataclasses.replace(first, seed=2), tmp_path / "other").checkpoint, start)
    with pytest.raises(ValueError, match=r"other settings \(start_sha256\)"):
        train(tune, tmp_path / "tuned")
    start.unlink()  # not needed any more
    assert train(tune, tmp_path / "tuned").kept
    table = data / "list_attr_celeba.txt"
    table.write_text(table.read_text().replace("-1", " 1", 1))
    with pytest.raises(ValueError, match=r"other settings \(labels_sha256\)"):
        train(first, tmp_path / "base")


def test_a_run_killed_after_its_last_epoch_is_over(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early stopping ended it; resumed, it trains no epoch more."""
    config = _config(data, epochs=40, patience=2, lr=0.3)
    whole = train(config, tmp_path / "whole")

    def killed(*_: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr("fastcam.training.run.save_checkpoint", killed)
        with pytest.raises(_Killed):
            train(config, tmp_path / "killed")
    resumed = train(config, tmp_path / "killed")
    assert resumed.epochs == whole.epochs < 40
    assert _same(resumed.checkpoint, whole.checkpoint)


def test_an_interrupted_run_says_so_and_goes_on(data: Path, tmp_path: Path) -> None:
    """Ctrl-C on the command line; a second one is refused while it runs."""
    out = tmp_path / "run"
    code = (
        "from fastcam.cli import main\n"
        f"sys.exit(main(['train', {str(data)!r}, '-o', out, '--model', {MODEL!r}, "
        "'--size', '32', '--epochs', '3', '--batch-size', '10', '--device', 'cpu']))"
    )
    process = _until_saved(code, out)
    with pytest.raises(BlockingIOError, match=f"is being written by process {process.pid} on "):
        train(_config(data, seed=2), out)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "fastcam: interrupted" in said and "Traceback" not in said
    assert not (out / "model.pt").exists()
    assert (out / "last.ckpt").is_file()


@pytest.fixture(scope="module")
def unfinished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that stopped after its first epoch, and its settings' data."""
    out = tmp_path_factory.mktemp("unfinished")

    def stop(what: str, *_: Any) -> None:
        if what.startswith("epoch 2"):
            raise _Killed

    with pytest.raises(_Killed):
        train(_config(data), out, progress=stop)
    return out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:3000]), "is cut off or damaged"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("junk\n"), "is a text file"),
        (lambda p: p.write_bytes(bytes(5000)), "is no file of PyTorch"),
        (lambda p: torch.save(torch.nn.Linear(1, 1).state_dict(), p), "lacks pytorch-lightning_v"),
        (
            lambda p: torch.save({**torch.load(p), "state_dict": {}}, p),
            "is the state of another network",
        ),
        (lambda p: torch.save(torch.nn.Linear(1, 1), p), "holds Python objects"),
    ],
    ids=["cut", "empty", "text", "zeros", "weights", "another", "pickled"],
)
def test_a_damaged_resume_file_is_named_and_left(
    damage: Any, message: str, data: Path, unfinished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unfinished, out)
    damage(out / "last.ckpt")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(ValueError, match=rf"last\.ckpt {message}.*remove the file to train anew"):
        train(_config(data), out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    (out / "last.ckpt").unlink()
    train(_config(data, epochs=1), out)  # as it says; nothing binds to the old settings


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("settings.json", "{", r"settings\.json is no settings of a run, or a damaged one"),
        ("settings.json", "[]", r"settings\.json is no settings of a run"),
        ("settings.json", None, r"holds last\.ckpt without settings\.json"),
        ("history.csv", "a,b\n", r"history\.csv was not written by fastcam"),
    ],
)
def test_other_damaged_files_of_a_run_are_named(
    name: str, content: str | None, message: str, data: Path, unfinished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unfinished, out)
    (out / name).unlink() if content is None else (out / name).write_text(content)
    with pytest.raises((ValueError, FileExistsError), match=message):
        train(_config(data), out)


def test_early_stopping_keeps_the_best_epoch(data: Path, tmp_path: Path) -> None:
    result = train(_config(data, epochs=40, patience=2, lr=0.3), tmp_path)
    losses = [r["valid/loss"] for r in read_history(result.history) if "valid/loss" in r]
    best = losses.index(min(losses))
    assert result.epochs == len(losses) == best + 3 < 40
    shorter = train(_config(data, epochs=best + 1, lr=0.3), tmp_path / "shorter")
    assert _same(result.checkpoint, shorter.checkpoint)


def test_a_control_is_the_same_run_without_guidance(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    tune = _config(data, start=str(trained), epochs=1, seed=5)
    off = dataclasses.replace(GUIDANCE, pull=0.0)
    plain = train(tune, tmp_path / "plain")
    control = train(dataclasses.replace(tune, guidance=off), tmp_path / "control")
    guided = train(dataclasses.replace(tune, guidance=GUIDANCE, clip=5.0), tmp_path / "guided")
    assert _same(plain.checkpoint, control.checkpoint)
    assert not _same(control.checkpoint, guided.checkpoint)
    names = set().union(*read_history(control.history))
    assert {"valid/energy", "valid/iou", "valid/dead", "valid/accuracy_target"} <= names
    assert "train/loss_g" not in names
    assert {"train/loss_g", "train/dead", "train/sharpness", "train/ratio"} <= set().union(
        *read_history(guided.history)
    )
    # The first batch is the same for both: order, augmentation and dropout do not depend on it.
    steps = [[r for r in read_history(x.history) if "train/loss_a" in r] for x in (control, guided)]
    first = [records[0]["train/loss_a"] for records in steps]
    assert first[0] == pytest.approx(first[1], abs=1e-6)
    sharpness = [r["train/sharpness"] for r in read_history(guided.history) if "train/loss" in r]
    assert sharpness[0] == 1.0
    assert sharpness[-1] == 4.0
    assert sharpness == sorted(sharpness)


def test_guidance_moves_the_attention(data: Path, trained: Path, tmp_path: Path) -> None:
    tune = _config(data, start=str(trained), epochs=8, clip=5.0, augment="none")
    energy = {}
    for name, pull in (("control", 0.0), ("guided", 2.0)):
        guidance = dataclasses.replace(GUIDANCE, targets=(("Lips", "left_eye"),), pull=pull)
        run = train(dataclasses.replace(tune, guidance=guidance), tmp_path / name)
        found = evaluate(load_checkpoint(run.checkpoint), data, attribute="Lips", region="left_eye")
        energy[name] = found["a"].energy
    assert energy["guided"] > 2 * energy["control"]


def test_the_learning_rate_falls_as_a_cosine(data: Path, tmp_path: Path) -> None:
    run = train(_config(data, schedule="cosine"), tmp_path / "cosine")
    rates = [r["train/lr"] for r in read_history(run.history) if "train/lr" in r]
    expected = [0.05 * (1 + math.cos(math.pi * step / 15)) / 2 for step in range(15)]
    assert rates == pytest.approx(expected, rel=1e-5)
    steady = train(_config(data), tmp_path / "steady")
    rates = [r["train/lr"] for r in read_history(steady.history) if "train/lr" in r]
    assert rates == pytest.approx([0.05] * 15)


def test_two_targets_and_all_images(data: Path, trained: Path, tmp_path: Path) -> None:
    guidance = dataclasses.replace(
        GUIDANCE, targets=(("Lips", "mouth"), ("Eyes", "left_eye,right_eye")), guide="all"
    )
    tune = _config(data, start=str(trained), epochs=1, clip=5.0, guidance=guidance)
    result = train(tune, tmp_path)
    assert result.landmark_sources == {"ground_truth": 48}
    few = train(dataclasses.replace(tune, limit_train=10), tmp_path / "few")
    assert few.landmark_sources == {"ground_truth": 10}
    assert load_checkpoint(result.checkpoint).history[1]["settings"]["guidance"]["targets"] == [
        ["Lips", "mouth"],
        ["Eyes", "left_eye,right_eye"],
    ]


def test_training_on_chosen_attributes(data: Path, tmp_path: Path) -> None:
    first = train(_config(data, attributes=("Eyes", "Lips"), epochs=1), tmp_path / "first")
    assert load_checkpoint(first.checkpoint).attributes == ["Eyes", "Lips"]
    tune = _config(data, start=str(first.checkpoint), epochs=1, guidance=GUIDANCE, clip=5.0)
    tuned = load_checkpoint(train(tune, tmp_path / "tuned").checkpoint)
    assert tuned.attributes == ["Eyes", "Lips"]
    found = evaluate(tuned, data, attribute="Lips", other="Eyes", region="mouth", split="all")
    assert found["all"].images == 96
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        train(_config(data, attributes=("Nose",)), tmp_path / "wrong")
    with pytest.raises(ValueError, match="attributes must name at least one"):
        _config(data, attributes=())


def test_pieces_of_guidance() -> None:
    regions = torch.tensor([[[[0.0, 0.5, 1.0]]]])
    torch.testing.assert_close(cell_weights(regions, 3.0), torch.tensor([[[[1.0, 2.0, 3.0]]]]))
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert guided_pairs(labels, "positives").tolist() == [[True, False], [False, True]]
    assert guided_pairs(labels, "all").all()
    assert [warm_sharpness(8.0, p) for p in (-1, 0, 0.5, 1, 2)] == [1, 1, 4.5, 8, 8]


def test_a_diverging_run_says_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"diverged: the .* became .* in step \d+ of 40;"):
        train(_config(data, lr=1e6, epochs=8, clip=0.0), tmp_path)
    assert not (tmp_path / "model.pt").exists()


def test_settings_that_do_not_fit(data: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown model"):
        train(_config(data, model="nonet"), tmp_path / "a")
    wrong = dataclasses.replace(GUIDANCE, targets=(("Nose", "mouth"),))
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        train(_config(data, start=str(trained), guidance=wrong), tmp_path / "b")
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        train(_config(tmp_path / "nowhere"), tmp_path / "c")
    other = write_faces(tmp_path / "other", 16)
    table = other / "list_attr_celeba.txt"
    table.write_text(table.read_text().replace("Dark", "Bright"))
    with pytest.raises(ValueError, match="trained on other attributes"):
        train(_config(other, start=str(trained)), tmp_path / "d")


def test_chosen_attributes_are_learned_and_kept_in_fine_tuning(data: Path, tmp_path: Path) -> None:
    names = (ATTRIBUTES[1], ATTRIBUTES[0])
    first = train(_config(data, attributes=names, epochs=1), tmp_path / "first")
    assert load_checkpoint(first.checkpoint).attributes == list(names)
    train(_config(data, attributes=names, epochs=1), tmp_path / "first")  # the same run: kept
    second = train(_config(data, start=str(first.checkpoint), epochs=1), tmp_path / "second")
    assert load_checkpoint(second.checkpoint).attributes == list(names)
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        train(_config(data, attributes=("Nose",)), tmp_path / "third")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attributes": ()}, "attributes must name at least one"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"momentum": 1.0}, "momentum must be below 1"),
        ({"clip": -1.0}, "clip must be at least 0"),
        ({"augment": "mirror"}, "augment must be one of"),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"fit": "pad"}, "fit must be one of"),
        ({"save_minutes": -1}, "save_minutes must be at least 0"),
        ({"attributes": ("Lips", "Lips")}, "attributes must not repeat"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig("faces", **changes)


@pytest.mark.parametrize("changes", [{"epochs": 1.5}, {"seed": "a"}, {"lr": "a"}, {"size": True}])
def test_settings_of_another_type_are_named(changes: dict[str, Any]) -> None:
    name, value = next(iter(changes.items()))
    with pytest.raises(TypeError, match=f"{name} must be a .*number, got {value!r}"):
        TrainConfig("faces", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ()}, "at least one"),
        ({"targets": (("Lips", "beard"),)}, "beard"),
        ({"w_g": -1.0}, "w_g must be at least 0"),
        ({"pull": -1.0}, "pull must be at least 0"),
        ({"pull": 1.0, "w_g": 1.0}, "give pull or w_g, not both"),
        ({"max_pair_pull": 0.0}, "max_pair_pull must be above 0"),
        ({"guide": "none"}, "guide must be one of"),
        ({"threshold": 1.0}, "threshold must lie in"),
        ({"sharpness": 0.5}, "sharpness must be at least 1"),
        ({"region_weight": 0.0}, "region_weight must be above 0"),
        ({"w_g": math.nan}, "w_g must be at least 0 and finite"),
        ({"sharpness": math.inf}, "sharpness must be at least 1 and finite"),
        ({"binarize": "soft"}, "binarize must be one of"),
        ({"weight_grad": "half"}, "weight_grad must be one of"),
        ({"head": "open"}, "head must be one of"),
        ({"grid": "round"}, "grid must be one of"),
    ],
)
def test_wrong_guidance_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**{"targets": (("Lips", "mouth"),), **changes})
