"""setup.py as a user runs it, on a project of one small library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import build_config as config


def run_setup(root: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", *arguments],
        cwd=root,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    """This project's build with one small source (and its header) for the library `_regions`."""
    root = tmp_path / "project"
    (root / "csrc" / "regions").mkdir(parents=True)
    (root / "fastcam").mkdir()
    for name in ("setup.py", "build_config.py", "pyproject.toml", "LICENSE"):
        shutil.copy(config.ROOT / name, root)
    (root / "README.md").touch()
    (root / "fastcam" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (root / "csrc" / "regions" / "answer.h").write_text("inline int answer() { return 42; }\n")
    (root / "csrc" / "regions" / "answer.cpp").write_text(
        '#include "answer.h"\n'
        'extern "C" __attribute__((visibility("default"))) int exported() { return answer(); }\n'
    )
    return root


def answer_of(root: Path) -> int:
    (library,) = (root / "fastcam").glob("_regions.*so")
    code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).exported())"
    return int(subprocess.check_output([sys.executable, "-c", code]))


def test_a_module_that_is_gone_is_not_packed(small_project):
    """As when a folder that has been installed from is brought up to date and installed from."""

    def packed():
        done = subprocess.run(
            [sys.executable, "setup.py", "-q", "build_py"], cwd=small_project, check=False
        )
        assert done.returncode == 0
        return sorted(path.name for path in small_project.glob("build/lib*/fastcam/*.py"))

    former = small_project / "fastcam" / "former.py"
    former.touch()
    assert packed() == ["__init__.py", "former.py"]
    former.unlink()
    assert packed() == ["__init__.py"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_incremental_build_in_place(small_project):
    def build():
        done = run_setup(small_project, "--inplace", FASTCAM_CPU_ONLY="1")
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    first = build()
    assert answer_of(small_project) == 42
    for library, why in (("_C", "no sources match"), ("_C_cuda", "FASTCAM_CPU_ONLY=1")):
        assert f"fastcam.{library} IS NOT BUILT" in first.stderr
        assert why in first.stderr
    info = json.loads((small_project / "fastcam" / config.BUILD_INFO).read_text())
    assert info["version"] == "1.2.3"
    assert set(info["libraries"]) == {"_regions"} and set(info["skipped"]) == {"_C", "_C_cuda"}

    stale = small_project / "fastcam" / "_C_cuda.abi3.so"
    stale.touch()
    assert "no work to do" in build().stdout
    assert not stale.exists()
    assert json.loads((small_project / "fastcam" / config.BUILD_INFO).read_text()) == info

    (small_project / "csrc" / "regions" / "answer.h").write_text(
        "inline int answer() { return 43; }"
    )
    assert "no work to do" not in build().stdout
    assert answer_of(small_project) == 43


def test_warning_is_an_error_and_says_how_to_go_on(small_project):
    (small_project / "csrc" / "regions" / "answer.h").write_text(
        "inline int answer() { int unused; return 42; }"
    )
    done = run_setup(small_project, "--inplace", FASTCAM_CPU_ONLY="1", FASTCAM_WERROR="1")
    assert done.returncode != 0
    assert "FASTCAM_WERROR=0" in done.stderr and "unused-variable" in done.stdout


def test_force_cuda_with_a_bad_cuda_home_fails_in_one_message(small_project, nowhere):
    done = run_setup(small_project, FORCE_CUDA="1", CUDA_HOME=str(nowhere))
    assert done.returncode != 0
    assert "fastcam cannot be built" in done.stderr
    if "without CUDA" not in done.stderr:  # a CPU-only torch is named first
        assert str(nowhere) in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_library_is_refused(small_project):
    done = run_setup(small_project, "--only", "_D")
    assert done.returncode != 0
    assert "_D" in done.stderr and "_C_cuda" in done.stderr
    assert "Traceback" not in done.stderr
