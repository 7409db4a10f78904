"""What the compiler made of the CUDA kernels: registers, stack, spills, 128-bit accesses, atomics.

Reads the built library with ``cuobjdump`` (from the CUDA toolkit, or Triton's package) and prints a
table; ``--check`` fails where a kernel breaks a rule, ``--write`` puts the table into
csrc/MEASURED.md. No GPU is needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.report import ROOT, markdown, replace_between

MEASURED = ROOT / "csrc" / "MEASURED.md"

# 65536 registers of a multiprocessor for three blocks of 256 threads in float, or two of 192; the
# launch bounds of grad_cam and the losses (csrc/cuda/cam/matrix.cuh, csrc/cuda/onepass) say more.
REGISTER_BUDGET = {"float": 80, "newer": 128, "other": 168, "one block in double": 255}
# From sm_100 on two blocks of 256 threads, as three would spill (csrc/cuda/plan.h).
NEWER = re.compile(r"\battend_forward_kernel<fastcam::\w+, true, true\b")

# Instructions that are counted in the disassembly.
SASS = {
    "wide loads": re.compile(r"\bLDG\.E\.128\b"),
    "local": re.compile(r"\b(LDL|STL)\b"),
    "float atomics": re.compile(r"\b(ATOM[GS]?|REDG?)\.\S*\b(B?F16\S*|F32|F64)\b"),
}
SassCounts = Mapping[tuple[str, str], Mapping[str, int]]  # by architecture and symbol


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture."""

    symbol: str
    name: str
    arch: str
    registers: int
    stack: int
    local: int

    @property
    def budget(self) -> int:
        one_block = self.short_name.startswith(("attend_", "cam_loss_"))
        if one_block and "<double" in self.name:
            return REGISTER_BUDGET["one block in double"]
        lean = re.search(r"<(float|fastcam::\w+), (1|true|false)\b", self.name) is not None
        lean = lean and not self.short_name.startswith("cam_")
        if NEWER.search(self.name) and int(self.arch.removeprefix("sm_")) >= 100:
            return REGISTER_BUDGET["newer"]
        return REGISTER_BUDGET["float" if lean else "other"]

    @property
    def short_name(self) -> str:
        """Without namespaces, parameters and what follows from the rest."""
        name = self.name.removeprefix("void ").replace("fastcam::", "")
        name = re.sub(r"\(.*$", "", name).replace("LossFinish<AllLosses<", "IoU<")
        return re.sub(
            r", (MapFinish|IoU|AllLosses)<.*$",
            lambda match: ">" if match[1] == "AllLosses" else f", {match[1]}>",
            name,
        ).strip()


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
    found: list[tuple[str, str, int, int, int]] = []
    arch = symbol = ""
    for line in text.splitlines():
        if match := re.match(r"arch = (\S+)", line.strip()):
            arch = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            symbol = match[1]
        elif symbol and (match := re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", line)):
            found.append((symbol, arch, int(match[1]), int(match[2]), int(match[3])))
            symbol = ""
    readable = _demangle(kernel[0] for kernel in found)
    return [
        Kernel(symbol, readable[symbol], arch, registers, stack, local)
        for symbol, arch, registers, stack, local in found
    ]


def parse_sass(text: str) -> dict[tuple[str, str], dict[str, int]]:
    """(architecture, symbol) -> how often each kind of instruction in ``SASS`` stands there."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    arch = ""
    current: dict[str, int] = {}
    for line in text.splitlines():
        if match := re.match(r"arch = (\S+)", line.strip()):
            arch = match[1]
        elif match := re.match(r"\s*Function : (\S+)", line):
            current = counts.setdefault((arch, match[1]), dict.fromkeys(SASS, 0))
        else:
            for kind, pattern in SASS.items():
                if pattern.search(line):
                    current[kind] += 1
    return counts


def broken_rules(kernels: Iterable[Kernel], sass: SassCounts) -> list[str]:
    """What is wrong with the kernels, one line each; SASS is looked at where it is given."""
    found = []
    for kernel in kernels:
        wrong = []
        if kernel.registers > kernel.budget:
            wrong.append(f"{kernel.registers} registers, more than {kernel.budget}")
        if kernel.stack or kernel.local:
            wrong.append(f"{kernel.stack} bytes of stack, {kernel.local} of local memory")
        counts = sass.get((kernel.arch, kernel.symbol))
        if counts is not None:
            if counts["local"]:
                wrong.append(f"{counts['local']} accesses to local memory")
            if counts["float atomics"]:
                wrong.append(f"{counts['float atomics']} floating-point atomics")
        found += [f"{kernel.arch} {kernel.short_name}: {what}" for what in wrong]
    return found


def dump(library: Path, what: str, arch: str | None = None) -> str:
    tool = cuobjdump()
    if tool is None:
        raise FileNotFoundError("cuobjdump is neither in CUDA_HOME, nor in triton, nor on PATH")
    only = [] if arch is None else ["--gpu-architecture", arch]
    return subprocess.run(
        [tool, *only, f"--dump-{what}", str(library)], capture_output=True, text=True, check=True
    ).stdout


def disassemble(library: Path, archs: Iterable[str]) -> dict[tuple[str, str], dict[str, int]]:
    """``parse_sass`` of some architectures; seconds each."""
    counts = {}
    for arch in archs:
        counts.update(parse_sass(dump(library, "sass", arch)))
    return counts


def architectures(kernels: Iterable[Kernel]) -> list[str]:
    """Oldest first."""
    return sorted({k.arch for k in kernels}, key=lambda arch: int(re.sub(r"\D", "", arch)))


def table(kernels: Iterable[Kernel], sass: SassCounts) -> str:
    """One row for each kernel: registers by architecture, and the worst of the rest."""
    kernels = list(kernels)
    archs = architectures(kernels)
    by_name: dict[str, dict[str, Kernel]] = {}
    for kernel in kernels:
        by_name.setdefault(kernel.short_name, {})[kernel.arch] = kernel
    rows = []
    for name, found in sorted(by_name.items()):
        counts = [sass[k.arch, k.symbol] for k in found.values()]
        rows.append(
            [
                f"`{name}`",
                *(str(found[arch].registers) if arch in found else "" for arch in archs),
                str(next(iter(found.values())).budget),
                str(max(k.stack for k in found.values())),
                str(max(k.local for k in found.values())),
                str(max(c["local"] for c in counts)),
                str(min(c["wide loads"] for c in counts)),
                str(max(c["float atomics"] for c in counts)),
            ]
        )
    columns = (
        *("kernel", *archs, "budget", "stack bytes", "local bytes"),
        *("local accesses", "128-bit loads, at least", "float atomics"),
    )
    return markdown(columns, rows)


def library_path(explicit: Path | None = None) -> Path | None:
    if explicit is not None:
        return explicit if explicit.exists() else None
    return next(iter(sorted((ROOT / "fastcam").glob("_C_cuda*.so"))), None)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench resources", description=__doc__)
    parser.add_argument("--library", type=Path, help="default: the one in fastcam/")
    parser.add_argument("--check", action="store_true", help="fail where a rule is broken")
    parser.add_argument("--write", action="store_true", help="into csrc/MEASURED.md")
    options = parser.parse_args(arguments)
    library = library_path(options.library)
    if library is None or cuobjdump() is None:
        missing = "the CUDA library is not built" if library is None else "cuobjdump is not found"
        print(f"bench resources: {missing}", file=sys.stderr)
        return 2
    kernels = parse_resources(dump(library, "resource-usage"))
    sass = disassemble(library, architectures(kernels))
    text = table(kernels, sass)
    print(text)
    if options.check:
        wrong = broken_rules(kernels, sass)
        print("\n".join(wrong) or f"{len(kernels)} kernels keep the rules")
        if wrong or not kernels:
            return 1
    if options.write:
        replace_between(MEASURED, "resources", text)
    return 0
