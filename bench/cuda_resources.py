"""What the compiler made of the CUDA kernels: registers, stack, spills, 128-bit loads.

Reads the built library with ``cuobjdump`` (from the CUDA toolkit, or Triton's package) and prints a
table, worst case over the architectures; ``--write`` puts it into csrc/README.md. No GPU is needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.report import markdown, replace_between

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "csrc" / "README.md"

# 65536 registers of a multiprocessor for two blocks of the largest size (csrc/cuda/plan.h).
REGISTER_BUDGET = {"one target, float": 80, "other": 168}


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture."""

    name: str
    arch: str
    registers: int
    stack: int
    local: int

    @property
    def budget(self) -> int:
        one_target = re.search(r"<(float|fastcam::\w+), 1\b", self.name) is not None
        return REGISTER_BUDGET["one target, float" if one_target else "other"]

    @property
    def short_name(self) -> str:
        """Without namespaces, parameters and what follows from the rest."""
        name = self.name.removeprefix("void ").replace("fastcam::", "")
        name = re.sub(r"\(.*$", "", name).replace("LossFinish<IoUFamily<", "IoU<")
        return re.sub(r", (MapFinish|IoU)<.*$", r", \1>", name).strip()


def cuobjdump() -> str | None:
    """The tool, or None."""
    home = os.environ.get("CUDA_HOME")
    if home and (Path(home) / "bin" / "cuobjdump").exists():
        return str(Path(home) / "bin" / "cuobjdump")
    spec = importlib.util.find_spec("triton")
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "backends" / "nvidia" / "bin" / "cuobjdump"
        if path.exists():
            return str(path)
    return shutil.which("cuobjdump")


def _demangle(names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if tool is None:
        return {name: name for name in names}
    done = subprocess.run(
        [tool], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return dict(zip(names, done, strict=True))


def parse_resources(text: str) -> list[Kernel]:
    """The kernels of ``cuobjdump --dump-resource-usage``."""
    found = []
    arch = name = ""
    for line in text.splitlines():
        if match := re.match(r"arch = (\S+)", line.strip()):
            arch = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif name and (match := re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", line)):
            found.append((name, arch, *map(int, match.groups())))
            name = ""
    readable = _demangle(kernel[0] for kernel in found)
    return [Kernel(readable[mangled], *rest) for mangled, *rest in found]


def parse_sass(text: str) -> dict[tuple[str, str], dict[str, int]]:
    """(architecture, mangled name) -> counts of instructions of interest."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    arch = ""
    current: dict[str, int] = {}
    for line in text.splitlines():
        if match := re.match(r"arch = (\S+)", line.strip()):
            arch = match[1]
        elif match := re.match(r"\s*Function : (\S+)", line):
            current = counts.setdefault(
                (arch, match[1]), {"wide loads": 0, "wide stores": 0, "local": 0}
            )
        elif re.search(r"\bLDG\.E\.128\b", line):
            current["wide loads"] += 1
        elif re.search(r"\bSTG\.E\.128\b", line):
            current["wide stores"] += 1
        elif re.search(r"\b(LDL|STL)\b", line):
            current["local"] += 1
    return counts


def dump(library: Path, what: str, arch: str | None = None) -> str:
    tool = cuobjdump()
    if tool is None:
        raise FileNotFoundError("cuobjdump is neither in CUDA_HOME, nor in triton, nor on PATH")
    only = [] if arch is None else ["--gpu-architecture", arch]
    return subprocess.run(
        [tool, *only, f"--dump-{what}", str(library)], capture_output=True, text=True, check=True
    ).stdout


def table(kernels: Iterable[Kernel]) -> str:
    """One row for each kernel: registers by architecture."""
    kernels = list(kernels)
    archs = sorted({k.arch for k in kernels}, key=lambda a: int(re.sub(r"\D", "", a)))
    by_name: dict[str, dict[str, Kernel]] = {}
    for kernel in kernels:
        by_name.setdefault(kernel.short_name, {})[kernel.arch] = kernel
    rows = []
    for name, found in sorted(by_name.items()):
        any_one = next(iter(found.values()))
        rows.append(
            [
                f"`{name}`",
                *(str(found[arch].registers) if arch in found else "" for arch in archs),
                str(any_one.budget),
                str(max(k.stack for k in found.values())),
                str(max(k.local for k in found.values())),
            ]
        )
    return markdown(("kernel", *archs, "budget", "stack bytes", "local bytes"), rows)


def library_path(explicit: Path | None = None) -> Path | None:
    if explicit is not None:
        return explicit if explicit.exists() else None
    return next(iter(sorted((ROOT / "fastcam").glob("_C_cuda*.so"))), None)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench resources", description=__doc__)
    parser.add_argument("--library", type=Path, help="default: the one in fastcam/")
    parser.add_argument("--write", action="store_true", help="into csrc/README.md")
    options = parser.parse_args(arguments)
    library = library_path(options.library)
    if library is None or cuobjdump() is None:
        missing = "the CUDA library is not built" if library is None else "cuobjdump is not found"
        print(f"bench resources: {missing}", file=sys.stderr)
        return 2
    text = table(parse_resources(dump(library, "resource-usage")))
    print(text)
    if options.write:
        replace_between(README, "resources", text)
    return 0
