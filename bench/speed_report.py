"""``python -m bench report``: tables, plots and docs/speed.md from the measured results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import speed_plots
from bench.report import ROOT, markdown, replace_between, write
from bench.targets import Record, targets_table

RESULTS = ROOT / "bench" / "results"
MIB = 2**20


def _ms(timing: Mapping[str, float]) -> str:
    median, p20, p80 = (1e3 * timing[key] for key in ("median", "p20", "p80"))
    return f"{median:.3g} ({p20:.3g} to {p80:.3g})"


def _mib(peaks: Mapping[str, Sequence[int]], which: int) -> str:
    return ", ".join(f"{peaks[name][which] / MIB:.3g}" for name in ("fused", "eager", "compiled"))


def ops_table(records: Sequence[Record]) -> str:
    """The ops by case: the records that hold peak memory."""
    rows = []
    for record in records:
        if "peaks" not in record:
            continue
        times, fused = record["times"], record["times"]["fused"]["median"]
        limit = times.get("byte limit")
        rows.append(
            [
                record["name"],
                _ms(times["fused"]),
                *(f"{times[name]['median'] / fused:.2f}" for name in ("eager", "compiled")),
                f"{fused / limit['median']:.2f}" if limit else "",
                *(_mib(record["peaks"], which) for which in (0, 1)),
            ]
        )
    columns = (
        "forward + backward",
        "fused, ms (p20 to p80)",
        "eager / fused",
        "compiled / fused",
        "fused / byte limit",
        "peak MiB beyond inputs and gradients: fused, eager, compiled",
        "with the gradients",
    )
    return markdown(columns, rows)


def others_table(records: Sequence[Record]) -> str:
    """Steps, maps and curves: every candidate against the first."""
    rows = []
    for record in records:
        if "peaks" in record:
            continue
        first = next(iter(record["times"].values()))["median"]
        for name, timing in record["times"].items():
            ratio = f"{timing['median'] / first:.3f}"
            rows.append([record["name"], name, _ms(timing), ratio, str(timing["runs"])])
    columns = ("case", "candidate", "ms (p20 to p80)", "against the first", "runs")
    return markdown(columns, rows)


def missing_peers(records: Sequence[Record]) -> list[str]:
    reasons = {k: v for record in records for k, v in record.get("missing", {}).items()}
    return [f"PEER LEFT OUT: {name} ({why})" for name, why in reasons.items()]


def machine_line(about: Mapping[str, Any]) -> str:
    return (
        f"{about['processor']}, {about['threads']} of {about['cores']} cores, {about['cpu_isa']}, "
        f"float32, torch {about['torch']}, {about['date']}, load {about['load']} at the start"
        + (", **few rounds (--quick)**" if about.get("quick") else "")
    )


def write_all(folder: Path, about: Mapping[str, Any], records: Sequence[Record]) -> None:
    """``cpu.json``, ``cpu.md`` and the plots."""
    lost = "".join(f"**{line}**\n\n" for line in missing_peers(records))
    text = f"{lost}{targets_table(records)}\n{ops_table(records)}\n{others_table(records)}"
    write(folder, "cpu", about, records, text)
    speed_plots.save(folder, records)


def docs_section(about: Mapping[str, Any], records: Sequence[Record]) -> str:
    again = f"\n{about['measured_again']}.\n" if "measured_again" in about else ""
    return f"{machine_line(about)}:\n\n{targets_table(records)}{again}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with cpu.json")
    parser.add_argument("--docs", action="store_true", help="write the table of docs/speed.md, too")
    options = parser.parse_args(arguments)
    measured = json.loads((options.results / "cpu.json").read_text())
    about, records = measured["machine"], measured["results"]
    write_all(options.results, about, records)
    if options.docs:
        replace_between(ROOT / "docs" / "speed.md", "speed", docs_section(about, records))
    return 0
