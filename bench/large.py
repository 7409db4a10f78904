"""``python -m bench large``: does a guided fine-tuning in large batches end where small ones do?

Small networks that judge lipstick by eye make-up, on drawn faces, one a seed; each is fine-tuned
with and without guidance in batches of several sizes: the learning rate in proportion to the batch,
a warm-up, and large batches in parts. All sizes pass over the images as often, but for those that
name their own passes (``4096x75``). Beside that, the most memory that a step takes, with parts and
without.

Everything is kept under ``--work``, and a stopped run goes on where it stopped; the table, the
picture and the numbers go to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from bench.guidance import DEMO, PAIRS, in_stages, judge
from bench.report import ROOT, machine, markdown, write
from fastcam._util.files import write_json

ARMS = {"guided": 1.0, "control": 0.0}  # by its pull
SHOWN = {"accuracy": "accuracy", "E2": "accuracy on E2", "energy": "energy in the region"}
_NETWORK: dict[str, Any] = {"model": "small", "model_options": {"width": 16}}


@dataclass(frozen=True)
class Setup:
    """What all runs share.

    images: drawn faces: ``train`` and ``valid`` of them, the others are judged. base_epochs,
    base_lr: of the networks that are fine-tuned, in batches of 32. passes: over the training images
    in a fine-tuning whose size has none of its own. lr: for a batch of ``part`` images, and in
    proportion for others. part: images that a step takes at a time. warmup: share of the steps.
    """

    images: int = 6400
    train: int = 4096
    valid: int = 256
    size: int = 48
    base_epochs: int = 10
    base_lr: float = 0.1
    passes: int = 50
    lr: float = 0.02
    part: int = 256
    warmup: float = 0.1


@dataclass(frozen=True)
class Size:
    """Of a batch, and the passes over the training images; 0 for what :class:`Setup` says."""

    batch: int
    passes: int = 0

    @classmethod
    def parse(cls, text: str) -> Size:
        """``4096``, or ``4096x75`` for 75 passes."""
        batch, _, passes = text.partition("x")
        return cls(int(batch), int(passes or 0))

    def __str__(self) -> str:
        return f"{self.batch}x{self.passes}" if self.passes else f"{self.batch}"


SIZES = [Size(256), Size(1024), Size(4096), Size(4096, 75)]


@dataclass(frozen=True)
class Run:
    """One fine-tuning."""

    size: Size
    arm: str
    seed: int

    def folder(self, work: Path) -> Path:
        return work / f"seed{self.seed}" / f"{self.arm}-{self.size}"


def same_setup(setup: Setup, work: Path) -> None:
    """Note the setup of a folder that goes on being used.

    Raises:
        ValueError: what is kept there was measured with another one.
    """
    kept, now = work / "setup.json", asdict(setup)
    was = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else now
    changed = [f"{_option(name)} {was[name]}" for name in now if was[name] != now[name]]
    if changed:
        raise ValueError(f"--work: expected a folder of its own, {work} has {', '.join(changed)}")
    write_json(kept, now)


def faces(setup: Setup, work: Path) -> Path:
    from fastcam.faces import generate

    (attribute, _), *_ = PAIRS
    train, valid = (setup.train + 1) / setup.images, setup.valid / setup.images
    return generate(
        work / "faces", setup.images, cooccurrence={(attribute, DEMO.other): DEMO.agreement},
        splits=(train, valid, 1 - train - valid), workers=1, progress=False,
    )  # fmt: skip


def base(setup: Setup, work: Path, seed: int) -> Path:
    """The network that a seed's fine-tunings start from."""
    from fastcam.training import TrainConfig, train

    config = TrainConfig(
        data=str(work / "faces"), size=setup.size, fit="face", patience=0, batch_size=32,
        epochs=setup.base_epochs, lr=setup.base_lr, schedule="cosine", seed=seed, device="cpu",
        limit_train=setup.train, channels_last=True, workers=1, **_NETWORK,
    )  # fmt: skip
    return train(config, work / f"seed{seed}" / "base").checkpoint


def settings(setup: Setup, work: Path, run: Run, **changes: Any) -> Any:
    """Of a fine-tuning, as ``fastcam finetune`` does it but for what large batches need."""
    from fastcam.training import GuidanceConfig, TrainConfig

    more: dict[str, Any] = {
        "batch_size": run.size.batch, "accumulate": -(-run.size.batch // setup.part),
        "epochs": run.size.passes or setup.passes, "lr": setup.lr,
        "lr_batch": setup.part, "warmup": setup.warmup, "schedule": "cosine",
        "limit_train": setup.train, "seed": run.seed + 1, "device": "cpu", "channels_last": True,
        "workers": 1, **changes,
    }  # fmt: skip
    guidance = GuidanceConfig(targets=PAIRS[:1], pull=ARMS[run.arm])
    start = work / f"seed{run.seed}" / "base" / "model.pt"
    return TrainConfig.finetune(start, work / "faces", guidance, **more)


def tuned(setup: Setup, work: Path, run: Run) -> dict[str, Any]:
    """Fine-tune and judge; what an earlier call found is kept."""
    from fastcam.training import TrainingDiverged, train
    from fastcam.training.history import read_history

    folder = run.folder(work)
    found = folder / "found.json"
    if found.is_file():
        return json.loads(found.read_text(encoding="utf-8"))
    start = time.process_time()
    result: dict[str, Any] = {
        "batch": run.size.batch, "passes": run.size.passes or setup.passes, "arm": run.arm,
        "seed": run.seed, "diverged": None,
    }  # fmt: skip
    try:
        trained = train(settings(setup, work, run), folder)
    except TrainingDiverged as error:
        result["diverged"] = str(error)
    else:
        result["seconds"] = time.process_time() - start
        records = read_history(trained.history)
        result["steps"] = int(records[-1]["step"])
        (of_test,) = judge(trained.checkpoint, work / "faces", 1, "cpu", 1, drops=False)["test"]
        result |= of_test
    write_json(found, result)
    return result


def peak(setup: Setup, work: Path, batch: int, part: int) -> dict[str, float]:
    """Bytes of this process that are resident before and at most in two guided steps."""
    from fastcam.training import train

    def most() -> int:
        # Not ru_maxrss, which a new process has from the one that started it.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    with tempfile.TemporaryDirectory() as out:
        train(_memory(setup, work, 32, 32), Path(out) / "small")  # sets things up
        before = most()
        train(_memory(setup, work, batch, part), Path(out) / "run")
    return {"batch": batch, "part": part, "before": before, "peak": most()}


def _memory(setup: Setup, work: Path, batch: int, part: int) -> Any:
    return settings(
        setup, work, Run(Size(batch), "guided", 0), accumulate=-(-batch // part), epochs=2,
        limit_train=batch, limit_valid=32,
    )  # fmt: skip


def peaks(setup: Setup, work: Path, batches: Sequence[int]) -> list[dict[str, Any]]:
    """Of batches whole and in parts, each in a process of its own; kept as found."""
    found = []
    for batch in batches:
        for part in dict.fromkeys((batch, min(batch, setup.part))):
            kept = work / f"memory-{batch}-{part}.json"
            if not kept.is_file():
                command = [sys.executable, "-m", "bench", "large", "--work", str(work.resolve())]
                command += ["--peak", str(batch), str(part), *_spelled(setup)]
                said = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
                )
                write_json(kept, json.loads(said.stdout.splitlines()[-1]))
            found.append(json.loads(kept.read_text(encoding="utf-8")))
    return found


def _spelled(setup: Setup) -> list[str]:
    return [text for name in _OPTIONS for text in (_option(name), str(getattr(setup, name)))]


_OPTIONS = ("images", "train", "valid", "size", "base_epochs", "passes", "lr", "part")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _job(setup: Setup, work: Path, step: int | Run) -> tuple[Any, Any]:
    """A seed's network, or a fine-tuning; and what it is of."""
    if isinstance(step, Run):
        return step, tuned(setup, work, step)
    return step, base(setup, work, step)


def measure(
    setup: Setup, work: Path, sizes: Sequence[Size], seeds: int, jobs: int
) -> list[dict[str, Any]]:
    """Faces, base networks and fine-tunings; what each fine-tuning found."""
    runs = [Run(size, arm, s) for s in range(seeds) for arm in ARMS for size in sizes]
    faces(setup, work)
    stages: dict[str, Sequence[Any]] = {"networks": range(seeds), "fine-tunings": runs}
    found = dict(in_stages(partial(_job, setup, work), stages, jobs, threads=1))
    return [found[run] for run in runs]


def spread(results: Sequence[Mapping[str, Any]], measure: str) -> tuple[float, float, float]:
    """(mean, least, most) over the seeds."""
    values = [r[measure] for r in results]
    return mean(values), min(values), max(values)


def apart(
    some: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], measure: str
) -> tuple[float, bool]:
    """How far the means are apart, and whether that is no more than seeds are.

    Of the two spreads (most − least over the seeds) the wider one counts.
    """
    found = [spread(results, measure) for results in (some, others)]
    widest = max(most - least for _, least, most in found)
    difference = found[0][0] - found[1][0]
    return difference, abs(difference) <= widest


def grouped(results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int, int], list[Any]]:
    """By arm, batch size and passes, in order."""
    groups: dict[tuple[str, int, int], list[Any]] = {}
    for result in results:
        groups.setdefault((result["arm"], result["batch"], result["passes"]), []).append(result)
    order = list(ARMS)
    return dict(sorted(groups.items(), key=lambda item: (order.index(item[0][0]), *item[0][1:])))


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Test split: mean over seeds (least to most), and the difference to the smallest batch."""
    groups = grouped(results)
    rows = []
    for (arm, batch, passes), group in groups.items():
        row = [arm, f"{batch:,}", str(passes)]
        lost = sum(r["diverged"] is not None for r in group)
        if lost:
            rows.append([*row, f"**{lost} diverged**", *[""] * (len(SHOWN) + 1)])
            continue
        row += [str(group[0]["steps"])]
        smallest = next(g for key, g in groups.items() if key[0] == arm)
        for name in SHOWN:
            if any(r[name] is None for r in group):
                row.append("none")
                continue
            average, least, most = (100 * v for v in spread(group, name))
            cell = f"{average:.1f} ({least:.1f} to {most:.1f})"
            known = all(r["diverged"] is None and r[name] is not None for r in smallest)
            if group is not smallest and known:
                difference, within = apart(group, smallest, name)
                cell += f", {100 * difference:+.1f}" + ("" if within else " **beyond seeds**")
            row.append(cell)
        rows.append([*row, f"{mean(r['seconds'] for r in group):.0f}"])
    columns = ["", "batch", "passes", "steps", *(f"{text}, %" for text in SHOWN.values())]
    columns.append("core seconds")
    return markdown(columns, rows)


def memory_table(found: Sequence[Mapping[str, Any]]) -> str:
    batches = sorted({r["batch"] for r in found})
    taken = {(r["batch"], r["part"]): (r["peak"] - r["before"]) / 1e6 for r in found}
    parts = min(r["part"] for r in found)
    rows = [
        ["whole", *(f"{taken[b, b]:,.0f}" for b in batches)],
        [f"in parts of {parts}", *(f"{taken[b, min(b, parts)]:,.0f}" for b in batches)],
    ]
    return markdown(["memory of a step, MB", *(f"{b:,}" for b in batches)], rows)


def figure(results: Sequence[Mapping[str, Any]], memory: Sequence[Mapping[str, Any]]) -> Any:
    """A panel for each measure, a dot a seed and a line through the means; and the memory.

    Open dots are of sizes with passes of their own.
    """
    from fastcam.report.figure import COLORS, new_figure

    drawn = new_figure(3.4 * (len(SHOWN) + 1), 3.0)
    axes = drawn.subplots(1, len(SHOWN) + 1)
    usual = results[0]["passes"]
    for axis, (name, title) in zip(axes, SHOWN.items(), strict=False):
        for color, arm in zip(COLORS, ARMS, strict=False):
            lines: list[tuple[int, float]] = []
            for (of, batch, passes), group in grouped(results).items():
                values = [100 * r[name] for r in group if r.get(name) is not None]
                if of != arm or not values:
                    continue
                own = passes != usual
                face = "white" if own else color
                label = f"{arm}, {passes} passes" if own else None
                at = [batch * (1.25 if own else 1)] * len(values)
                axis.plot(at, values, "o", color=color, mfc=face, alpha=0.6, ms=4, label=label)
                if not own:
                    lines.append((batch, mean(values)))
            axis.plot(*zip(*lines, strict=True), "-", color=color, label=arm)
        axis.set_title(f"{title}, %", fontsize=10)
        axis.legend(fontsize=8, frameon=False)
    lines_of = {"whole": True, "in parts": False}
    for color, (label, whole) in zip(COLORS, lines_of.items(), strict=False):
        least = min(r["part"] for r in memory)
        points = [
            (r["batch"], (r["peak"] - r["before"]) / 1e6)
            for r in memory
            if r["part"] == (r["batch"] if whole else min(r["batch"], least))
        ]
        axes[-1].plot(*zip(*points, strict=True), "o-", color=color, label=label)
    axes[-1].set_title("memory of a step, MB", fontsize=10)
    axes[-1].set_ylim(bottom=0)
    axes[-1].legend(fontsize=8, frameon=False)
    batches = sorted({r["batch"] for r in results})
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(batches, [f"{b:,}" for b in batches])
        axis.minorticks_off()
        axis.set_xlabel("batch", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    return drawn


def main(arguments: Sequence[str]) -> int:
    standard = Setup()
    parser = argparse.ArgumentParser(
        prog="python -m bench large",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--batches", type=Size.parse, nargs="+", default=SIZES, metavar="BATCH[xPASSES]"
    )
    parser.add_argument("--seeds", type=int, default=3, help="networks, and runs of each")
    for name in _OPTIONS:
        value = getattr(standard, name)
        parser.add_argument(_option(name), type=type(value), default=value, help="see Setup")
    parser.add_argument("--work", type=Path, default=Path("runs/large"), help="kept and resumed")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a thread each")
    parser.add_argument("--peak", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    setup = Setup(**{name: getattr(options, name) for name in _OPTIONS})
    torch.set_num_threads(1)
    if options.peak:
        print(json.dumps(peak(setup, options.work, *options.peak)))
        return 0
    from fastcam.report.figure import save_figure

    try:
        same_setup(setup, options.work)
    except ValueError as error:
        parser.error(str(error))
    results = measure(setup, options.work, options.batches, options.seeds, options.jobs)
    memory = peaks(setup, options.work, sorted({size.batch for size in options.batches}))
    about = {**machine(), **asdict(setup), "seeds": options.seeds}
    text = table(results) + "\n" + memory_table(memory)
    write(options.out, "large", about, [*results, *memory], text)
    save_figure(figure(results, memory), options.out / "large.png")
    print("\n".join(f"- {k}: {v}" for k, v in about.items() if v is not None), text, sep="\n\n")
    return 0
