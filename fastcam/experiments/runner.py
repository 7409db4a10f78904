"""``run``: one experiment by name, into one folder."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastcam import __version__
from fastcam._util import checks as check
from fastcam._util.claim import claim
from fastcam._util.files import begins, check_target, json_with, write_json, write_text
from fastcam._util.progress import Report, reporting, timed
from fastcam._util.settings import differing
from fastcam.analysis.saved import Analysis, Saved, check_prefix, load, save
from fastcam.data.digests import DIGESTS, data_digests
from fastcam.experiments import kimura_tanaka
from fastcam.experiments.backbones import backbones
from fastcam.experiments.bias import bias, with_splits
from fastcam.experiments.decoy import decoy
from fastcam.experiments.figures import figure6, figure7
from fastcam.experiments.settings import EXTENT, OWN_PAIR, ExperimentConfig, settings_of
from fastcam.experiments.study import Study
from fastcam.experiments.table1 import table1
from fastcam.report import Table

#: What each experiment does with a study.
EXPERIMENTS: dict[str, Callable[[Study], Analysis]] = {
    "table1": table1,
    "figure6": figure6,
    "figure7": figure7,
    "bias": bias,
    "backbones": backbones,
    "decoy": decoy,
    "mask-table1": kimura_tanaka.mask_table1,
    "mask-table2": kimura_tanaka.mask_table2,
    "mask-table3": kimura_tanaka.mask_table3,
    "mask-table4": kimura_tanaka.mask_table4,
    "mask-figure3": kimura_tanaka.mask_figure3,
    "mask-figure4": kimura_tanaka.mask_figure4,
    "mask-figure5": kimura_tanaka.mask_figure5,
}
CONFIG = "config.json"
_is_config = json_with("data", "seeds", "version")


def run(
    name: str,
    out: str | Path,
    config: ExperimentConfig | None = None,
    *,
    workers: int = 2,
    jobs: int = 1,
    progress: bool | Report | None = True,
    say: Callable[[str], None] = print,
) -> Saved:
    """Run an experiment; what an earlier run with the same settings has finished is kept.

    With more seeds or pairs it goes on from there: only what is new is trained and judged.

    Writes ``NAME.md``, ``NAME.csv``, ``NAME.json`` (every number, with settings, seeds and
    versions), ``NAME.png``, ``config.json``, and a folder for each seed with its networks, which
    experiments in the same folder share.

    Args:
        name: of ``fastcam.experiments.CATALOGUE``.
        out: the folder.
        config: the settings.
        workers: processes that draw faces, and threads that read them.
        jobs: fine-tunings beside each other, in processes of their own.
        progress: True draws bars on a terminal and in a notebook that has ipywidgets; a function is
            called with (what, done, total).
        say: told what happens, one line at a time.

    Raises:
        ValueError: an unknown name, or ``out`` holds experiments with other settings, or on the
            data as they were before their labels, splits or landmarks changed.
        FileExistsError: ``out`` holds a file that fastcam did not write and would have to replace.
        BlockingIOError: another process writes there.
        FileNotFoundError: data are missing.
    """
    check.one_of("name", name, tuple(EXPERIMENTS))
    check.whole("jobs", jobs, 1)
    config = config or ExperimentConfig()
    if config.attribute is not None:
        check.one_of("name, with a pair of your own", name, ("table1", "figure7", "bias"))
    out = Path(out)
    with claim(out):
        check_prefix(out / name)
        check_target(out / f"{name}.csv", begins(_CSV))
        digests = {} if config.data is None else data_digests(config.data)
        _claim_settings(out / CONFIG, _settings(config, digests))
        if name == "bias":
            config = with_splits(config)
        settings = _settings(config, digests)
        say = timed(say)
        stored = load(out / name)
        if stored is not None and not _differing(stored.settings, settings):
            # Again: a run may have been killed before it was there.
            write_text(out / f"{name}.csv", _csv(stored.tables), ours=begins(_CSV))
            say(f"{out / name}.md is there, made with the same settings: kept")
            return stored
        began = _clocks()
        with reporting(progress) as report:
            found = EXPERIMENTS[name](Study(out, config, workers, report, say, jobs))
        saved = save(found, out / name, {**settings, **_machine(began)})
        write_text(out / f"{name}.csv", _csv(saved.tables), ours=begins(_CSV))
        say(f"done: {out / name}.md")
        return saved


def _settings(config: ExperimentConfig, digests: dict[str, Any]) -> dict[str, Any]:
    """What decides the results, as JSON gives it back."""
    return json.loads(json.dumps({**settings_of(config), "version": __version__})) | digests


def _claim_settings(path: Path, settings: dict[str, Any]) -> None:
    """A folder that holds experiments must hold ones with these settings; seeds may be added."""
    check_target(path, _is_config)
    if path.is_file():
        stored = json.loads(path.read_bytes())
        changed = _differing(stored, settings) - set(EXTENT)
        others = sorted(changed - set(DIGESTS))
        if others:
            raise ValueError(
                f"{path.parent} holds experiments with other settings ({', '.join(others)}); name "
                "another folder, or remove this one"
            )
        if changed:
            what = " and ".join(DIGESTS[name] for name in DIGESTS if name in changed)
            raise ValueError(
                f"{path.parent} holds experiments on {settings['data']} as it was: its {what} have "
                "changed since; name another folder, or remove this one"
            )
        # Behind the others, as the first run has written them.
        settings = settings | {k: stored[k] for k in DIGESTS if k in stored and k not in settings}
    write_json(path, settings, ours=_is_config)


def _differing(stored: dict[str, Any], settings: dict[str, Any]) -> set[str]:
    """Names of the settings that are others; what ``stored`` has besides does not count."""
    compared = {k: stored[k] for k in (*settings, *OWN_PAIR, *DIGESTS) if k in stored}
    before, now = (  # however the path is written
        {**x, "data": os.path.realpath(x["data"])} if x.get("data") else x
        for x in (compared, settings)
    )
    return differing(before, now, optional=DIGESTS)


def _clocks() -> tuple[float, float]:
    """Seconds of the clock, and of processors for this process and those it has waited for."""
    used = os.times()
    return time.monotonic(), sum(used[:4])


def _machine(began: tuple[float, float]) -> dict[str, Any]:
    """What the numbers were measured on, and what the last run took.

    Minutes of the clock, and of processors: on a machine that does other things these say more.
    """
    minutes, processors = ((b - a) / 60 for a, b in zip(began, _clocks(), strict=True))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "threads": torch.get_num_threads(),
        "minutes": round(minutes, 2),
        "processor_minutes": round(processors, 2),
    }


_CSV = "table,"


def _csv(tables: list[Table]) -> str:
    """All tables in one file, the first column naming the table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for table in tables:
        writer.writerow(["table", *table.header])
        writer.writerows([table.title, *row] for row in table.rows)
    return text.getvalue()
