"""Prints the oldest versions that pyproject.toml allows as pins, for `make test-oldest`."""

from __future__ import annotations

import tomllib
from pathlib import Path

# What only tests and builds need may be the newest.
NEWEST = ("bench", "dev", "all")


def oldest(pyproject: dict[str, object]) -> list[str]:
    """Pins of the dependencies and of all extras that users install."""
    project: dict[str, dict[str, list[str]]] = pyproject["project"]  # type: ignore[assignment]
    needed = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        if extra not in NEWEST:
            needed += [r for r in requirements if not r.startswith("fastcam[")]
    return sorted({r.replace(">=", "==") for r in needed})


if __name__ == "__main__":
    file = Path(__file__).parents[1] / "pyproject.toml"
    print("\n".join(oldest(tomllib.loads(file.read_text()))))
