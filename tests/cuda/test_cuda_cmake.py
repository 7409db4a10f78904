"""CMake compiles the CUDA sources of the Python build, with what decides how they behave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import cpp_extension

import build_config

TOOLS = Path(sys.executable).parent
PATH = os.pathsep.join([str(TOOLS), os.environ.get("PATH", "")])
HOME, _ = build_config.find_cuda_home(os.environ)

pytestmark = [
    pytest.mark.skipif(HOME is None, reason="no CUDA toolkit"),
    pytest.mark.skipif(shutil.which("cmake", path=PATH) is None, reason="no CMake"),
    pytest.mark.skipif(shutil.which("ninja", path=PATH) is None, reason="no ninja"),
]


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> dict[str, str]:
    """Source file to command line."""
    folder = tmp_path_factory.mktemp("cmake")
    options = [
        "-DFASTCAM_CUDA=ON",
        f"-DFASTCAM_TORCH_INCLUDE={cpp_extension.include_paths()[0]}",
    ]
    subprocess.run(
        ["cmake", "-G", "Ninja", "-S", str(build_config.ROOT), "-B", str(folder), *options],
        env={**os.environ, "PATH": PATH, "CUDACXX": f"{HOME}/bin/nvcc"},
        check=True,
        capture_output=True,
    )
    entries = json.loads((folder / "compile_commands.json").read_text())
    return {
        str(Path(entry["file"]).relative_to(build_config.ROOT)): entry["command"]
        for entry in entries
        if "csrc/cuda" in entry["file"]
    }


def test_the_same_sources(commands):
    assert sorted(commands) == build_config.sources("_C_cuda")


def test_flags_that_change_results_or_hide_mistakes(commands):
    for command in commands.values():
        words = command.split()
        for define in (*build_config.STABLE_ABI_DEFINES, *build_config.CUDA_DEFINES):
            assert define in words
        assert "-O3" in words and "-std=c++20" in words and "-Werror=all-warnings" in words
        assert not any("fast" in word and "math" in word for word in words)
