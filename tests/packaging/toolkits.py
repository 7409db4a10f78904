"""CUDA toolkits made of shell scripts, and torches made of their versions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

ALL_ARCHS = (75, 80, 86, 87, 89, 90, 100, 103, 120)


def make_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def make_toolkit(home: Path, version: str = "13.0", archs: tuple[int, ...] = ALL_ARCHS) -> Path:
    """A CUDA toolkit whose nvcc answers the three questions that the build asks."""
    (home / "include").mkdir(parents=True)
    (home / "include" / "cuda_runtime.h").touch()
    known = "\n".join(f"compute_{arch}" for arch in archs)
    make_script(
        home / "bin" / "nvcc",
        f"""case "$1" in
--version) echo "Cuda compilation tools, release {version}, V{version}.88" ;;
--list-gpu-arch) echo "{known}" ;;
--dryrun) printf '#$ _SPACE_= \\n#$ _HERE_={home}/bin\\n#$ TOP={home}/bin/..\\n' >&2 ;;
esac
""",
    )
    return home


def torch_with(version: str = "2.14.1", cuda: str | None = "13.0", hip: str | None = None) -> Any:
    """What the build asks of the module torch."""
    return SimpleNamespace(__version__=version, version=SimpleNamespace(cuda=cuda, hip=hip))
