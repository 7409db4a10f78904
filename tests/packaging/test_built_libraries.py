"""What the libraries that were built expose and need."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import build_config as config

# Everything of torch that may be used across versions is C; an undefined C++ name from one of these
# namespaces would tie a library to the torch it was built with.
FOREIGN_CPP = re.compile(r"_ZN?K?\w*?(2at|3c10|5torch|5caffe2)\d")


def undefined_symbols(library: Path) -> list[str]:
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    out = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    )
    return [line.split()[-1] for line in out.stdout.splitlines()]


def built(stem: str) -> Path:
    libraries = sorted((config.ROOT / "fastcam").glob(f"{stem}.*so"))
    if not libraries:
        info = json.loads((config.ROOT / "fastcam" / config.BUILD_INFO).read_text())
        pytest.skip(f"{stem} is not built here: {info['skipped'][stem]}")
    assert len(libraries) == 1
    return libraries[0]


@pytest.mark.parametrize("stem", ["_C", "_C_cuda"])
def test_torch_libraries_use_the_stable_abi_only(stem):
    symbols = undefined_symbols(built(stem))
    assert any(s.startswith("aoti_torch_") or s.startswith("torch_") for s in symbols)
    assert [s for s in symbols if FOREIGN_CPP.match(s)] == []
    assert [s for s in symbols if s.startswith(("Py", "_Py"))] == []
    assert built(stem).name == f"{stem}.abi3.so"


def test_foreign_symbols_would_be_seen():
    for name in (
        "_ZN2at5emptyEN3c108ArrayRefIlEE",
        "_ZN3c106detail14torchCheckFailEPKcS2_jRKSs",
        "_ZNK2at6Tensor4sizeEl",
        "_ZN5torch7Library4_defEON3c1014FunctionSchemaE",
    ):
        assert FOREIGN_CPP.match(name)
    for name in ("_ZNSt13runtime_errorD1Ev", "aoti_torch_get_dim", "_Znwm"):
        assert not FOREIGN_CPP.match(name)


def test_regions_library_knows_no_torch():
    symbols = undefined_symbols(built("_regions"))
    assert [s for s in symbols if "torch" in s or FOREIGN_CPP.match(s)] == []


def test_cpu_library_needs_no_cuda():
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    out = subprocess.run(
        ["readelf", "-d", str(built("_C"))], capture_output=True, text=True, check=True
    )
    needed = re.findall(r"NEEDED.*\[(.+)\]", out.stdout)
    assert "libtorch_cpu.so" in needed
    assert not any("cuda" in name or "python" in name for name in needed)


def test_build_info_describes_this_build():
    info = json.loads((config.ROOT / "fastcam" / config.BUILD_INFO).read_text())
    assert {"_C", "_regions"} <= set(info["libraries"])
    assert set(info["libraries"]) | set(info["skipped"]) == set(config.SOURCES)
    assert (info["cuda"] is None) == ("_C_cuda" in info["skipped"])
    if info["cuda"] is not None:
        assert info["arch_list"] and info["arch_list"][-1].endswith("+PTX")
    else:
        assert info["cuda_reason"]
