"""The source distribution: with it come whatever its tests import, run and read."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import build_config as config

LEFT_OUT = (
    ".*",
    "*.so",
    "*.egg-info",
    "__pycache__",
    "build",
    "dist",
    "runs",
    "results",
    "node_modules",
)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed from a copy, for a build writes beside the sources."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(config.ROOT, folder / "copy", ignore=shutil.ignore_patterns(*LEFT_OUT))
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(folder)],
        cwd=folder / "copy",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def names(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def test_what_the_tests_read_is_there(names: set[str]) -> None:
    assert {"Makefile", "CONTRIBUTING.md", "CHANGELOG.md", "README.md", "LICENSE"} <= names
    assert {"setup.py", "build_config.py", "CMakeLists.txt", "requirements/dev.txt"} <= names
    for folder, kinds in (
        ("bench", ("py",)),
        ("csrc", ("h", "cuh", "cpp", "cu", "md")),
        ("docs", ("md", "py")),
        ("examples", ("py",)),
        ("fastcam", ("py", "typed")),
        ("tests", ("py", "cpp", "h", "cuh")),
    ):
        found = {p for kind in kinds for p in (config.ROOT / folder).rglob(f"*.{kind}")}
        wanted = {str(p.relative_to(config.ROOT)) for p in found if "results" not in p.parts}
        assert wanted and not wanted - names, folder


def test_what_the_tests_import_is_there(names: set[str]) -> None:
    """Modules of this project, by their first name: bench, docs, build_config, ..."""
    ours = {p.stem for p in config.ROOT.iterdir() if p.is_dir() or p.suffix == ".py"}
    packed = {name.split("/")[0].removesuffix(".py") for name in names if name.endswith(".py")}
    for path in (config.ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [str(node.module)]
            first = {module.split(".")[0] for module in modules}
            assert not first & ours - packed, path


def test_it_is_small(sdist: Path, names: set[str]) -> None:
    assert sdist.stat().st_size < 3_000_000
    assert not [n for n in names if n.endswith((".so", ".png", ".jpg", ".pyc"))]
