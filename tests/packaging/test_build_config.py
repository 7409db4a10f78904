"""Preflight checks, flags and the report of the build."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil

import pytest
import torch
from toolkits import make_toolkit

import build_config as config


@pytest.mark.parametrize(("value", "want"), [("1", True), ("ON", True), ("0", False), ("", False)])
def test_switches(value, want):
    assert config.enabled({"X": value}, "X") is want
    assert config.enabled({}, "X") is False


def test_switch_that_is_neither():
    with pytest.raises(config.BuildError, match="FORCE_CUDA must be 0 or 1, not 'maybe'"):
        config.enabled({"FORCE_CUDA": "maybe"}, "FORCE_CUDA")


def test_missing_torch_is_explained(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(config.BuildError, match="PyTorch is not installed") as error:
        config.check_torch()
    assert "--no-build-isolation" in str(error.value)
    assert error.value.code  # a non-zero exit


@pytest.mark.parametrize("version", ["2.10.0", "2.14.1+cu130", "3.0.0a0"])
def test_torch_that_is_new_enough(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert config.check_torch() is torch


@pytest.mark.parametrize("version", ["1.13.1", "2.9.1+cu128", "nightly"])
def test_torch_that_is_too_old(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(config.BuildError, match=re.escape(version)):
        config.check_torch()


def test_missing_build_tools_are_explained():
    config.check_build_tools("77.0.3")
    with pytest.raises(config.BuildError, match="pybind11 is not installed"):
        config.check_build_tools("84.2.1", ["pybind11"])
    with pytest.raises(config.BuildError, match=r"setuptools is 65\.5\.0") as error:
        config.check_build_tools("65.5.0")
    assert "pip install 'setuptools>=77' ninja pybind11" in str(error.value)


def test_a_build_needs_ninja(monkeypatch):
    """Without it torch compiles file after file, and nothing anew for a changed header."""
    assert config.absent_tools() == []
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert config.absent_tools() == []  # the module brings the program
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert config.absent_tools() == ["ninja", "pybind11"]


def test_missing_compiler_is_explained(nowhere):
    with pytest.raises(config.BuildError, match="cannot be run"):
        config.check_host_compiler({"CXX": str(nowhere)})


def test_compiler_with_arguments():
    assert config.check_host_compiler({"CXX": "c++"})
    with pytest.raises(config.BuildError, match="(?s)one program.*ccache"):  # torch quotes it whole
        config.check_host_compiler({"CXX": "ccache g++"})


@pytest.fixture
def cuda_plan(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    return config.CudaPlan(home=home, version="13.0", archs="9.0+PTX")


@pytest.mark.parametrize("name", ["_C", "_C_cuda", "_regions"])
def test_flags_that_must_and_must_not_be_there(name, cuda_plan):
    made = config.extension_options(name, cuda_plan, {"FASTCAM_WERROR": "1"})
    flags = made["extra_compile_args"]
    assert list(flags) == ["nvcc" if name == "_C_cuda" else "cxx"]
    for language, options in flags.items():
        text = " ".join(options)
        assert "-march=native" not in text and "fast-math" not in text
        assert ("-Werror all-warnings" if language == "nvcc" else "-Werror") in text
        assert ("TORCH_TARGET_VERSION=0x020a000000000000" in text) == (name != "_regions")
        assert ("-DUSE_CUDA" in options) == (name == "_C_cuda")


def test_warnings_are_errors_in_the_makefiles_builds_only(cuda_plan):
    for name in config.SOURCES:
        flags = config.extension_options(name, cuda_plan, {})["extra_compile_args"]
        assert not any("-Werror" in options for options in flags.values())
    assert "\nexport FASTCAM_WERROR ?= 1\n" in (config.ROOT / "Makefile").read_text()


def test_only_the_cuda_library_links_cuda(cuda_plan):
    libraries = {
        name: config.extension_options(name, cuda_plan, {}).get("libraries", [])
        for name in config.SOURCES
    }
    assert libraries == {
        "_C": ["torch_cpu"],
        "_C_cuda": ["torch_cpu", "torch_cuda", "cudart"],
        "_regions": [],
    }


def test_cuda_runtime_of_a_wheel_has_no_unversioned_name(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    (home / "lib").mkdir()
    (home / "lib" / "libcudart.so.13").touch()
    plan = config.CudaPlan(home=home, version="13.0", archs="9.0")
    options = config.extension_options("_C_cuda", plan, {})
    assert options["libraries"][-1] == ":libcudart.so.13"
    assert options["library_dirs"][-1] == str(home / "lib")


@pytest.mark.parametrize(("machine", "target"), [("x86_64", "x86_64"), ("aarch64", "sbsa")])
def test_cuda_runtime_under_the_targets_of_a_toolkit(machine, target, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    libraries = tmp_path / f"targets/{target}-linux/lib"
    libraries.mkdir(parents=True)
    (libraries / "libcudart.so").touch()
    plan = config.CudaPlan(tmp_path, "13.0", "9.0")
    assert config.extension_options("_C_cuda", plan, {})["library_dirs"][-1] == str(libraries)


def test_every_source_belongs_to_one_library():
    listed = [source for name in config.SOURCES for source in config.sources(name)]
    assert len(listed) == len(set(listed))
    on_disk = [p for ext in ("cpp", "cu") for p in (config.ROOT / "csrc").rglob(f"*.{ext}")]
    assert sorted(listed) == sorted(str(p.relative_to(config.ROOT)) for p in on_disk)


def test_report_names_what_was_skipped_and_why(tmp_path):
    assert "NOT BUILT" in config.report(tmp_path)
    path = tmp_path / config.BUILD_INFO
    path.write_text(json.dumps({"skipped": {"_C_cuda": "CPU only: no nvcc."}}))
    assert "_C_cuda: CPU only: no nvcc." in config.report(tmp_path)
    path.write_text(json.dumps({"skipped": {}}))
    assert config.report(tmp_path) == ""


def test_box_keeps_paragraphs_and_commands():
    text = config.box("title", "word " * 40 + "\n\n    pip install torch")
    assert max(map(len, text.splitlines())) <= 88
    assert any(line.strip() == "pip install torch" for line in text.splitlines())
