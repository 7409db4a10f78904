"""Results as JSON and as a Markdown table, with the machine they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
#: What results say of their run until it has ended.
UNFINISHED = {"unfinished": "the run goes on, or was ended before its end"}


def machine() -> dict[str, Any]:
    """Processor, threads, versions and date of this run."""
    import fastcam  # not needed to write a table, and there may be no build of it yet

    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    info = fastcam.build_info()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_isa": info["cpu_isa"],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fastcam": info["version"],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (columns, ["---"] * len(columns), *rows)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def met(fits: bool) -> str:
    """What a table says of a target."""
    return "met" if fits else "**missed**"


def first_line(error: BaseException) -> str:
    """What an error says first, short enough for a cell of a table."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:200].replace("|", "/")


def write(
    folder: Path,
    name: str,
    about: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    table: str,
) -> None:
    """``name.json`` and ``name.md`` in the folder; each appears whole or not at all.

    Raises:
        FileExistsError: a file of that name is there that no benchmark wrote.
    """
    from fastcam._util.files import begins, json_with, write_text

    ours = {".json": json_with("machine", "results"), ".md": begins("- ")}
    lines = [f"- {key}: {value}" for key, value in about.items() if value is not None]
    texts = {
        f"{name}.json": json.dumps({"machine": about, "results": list(results)}, indent=1) + "\n",
        f"{name}.md": "\n".join(lines) + "\n\n" + table,
    }
    for file, text in texts.items():
        write_text(folder / file, text, ours=ours[Path(file).suffix])


def replace_between(file: Path, mark: str, text: str) -> None:
    """Put ``text`` between the comments ``<!-- mark: begin -->`` and ``<!-- mark: end -->``."""
    from fastcam._util.files import write_text

    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, found, rest = file.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{file} has no {begin} ... {end}")
    write_text(file, f"{before}{begin}\n{text}{end}{after}")
