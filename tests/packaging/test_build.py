"""The build's preflight, on toolkits made of shell scripts, and what the built libraries expose."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


config = _load(ROOT / "build_config.py")

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


def torch_info(version: str = "2.14.1", cuda: str | None = "13.0", hip: str | None = None):
    return config.TorchInfo(version, cuda, hip, Path("/nowhere/torch"))


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    return tmp_path / "no-such-directory"


# --- finding the toolkit --------------------------------------------------------------------------


def test_cuda_home_is_used(tmp_path, nowhere):
    home = make_toolkit(tmp_path / "cuda")
    found, how = config.find_cuda_home({"CUDA_HOME": str(home)}, fallback=nowhere)
    assert found == home
    assert "CUDA_HOME" in how


def test_cuda_home_beats_the_path(tmp_path, nowhere):
    home, other = make_toolkit(tmp_path / "a"), make_toolkit(tmp_path / "b")
    env = {"CUDA_HOME": str(home), "PATH": str(other / "bin")}
    assert config.find_cuda_home(env, fallback=nowhere)[0] == home


def test_real_nvcc_on_the_path(tmp_path, nowhere):
    home = make_toolkit(tmp_path / "cuda")
    assert config.find_cuda_home({"PATH": str(home / "bin")}, fallback=nowhere)[0] == home


def test_link_on_the_path_is_followed(tmp_path, nowhere):
    home = make_toolkit(tmp_path / "cuda")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").symlink_to(home / "bin" / "nvcc")
    assert config.find_cuda_home({"PATH": str(tmp_path / "bin")}, fallback=nowhere)[0] == home


def test_wrapper_script_on_the_path_is_followed(tmp_path, nowhere):
    home = make_toolkit(tmp_path / "cuda")
    make_script(tmp_path / "usr" / "bin" / "nvcc", f'exec {home}/bin/nvcc "$@"\n')
    found, how = config.find_cuda_home({"PATH": str(tmp_path / "usr" / "bin")}, fallback=nowhere)
    assert found == home
    assert str(tmp_path / "usr" / "bin" / "nvcc") in how


def test_cuda_home_that_holds_only_a_wrapper_is_followed(tmp_path, nowhere):
    home = make_toolkit(tmp_path / "cuda")
    make_script(tmp_path / "usr" / "bin" / "nvcc", f'exec {home}/bin/nvcc "$@"\n')
    env = {"CUDA_HOME": str(tmp_path / "usr")}
    assert config.find_cuda_home(env, fallback=nowhere)[0] == home


def test_fallback_location(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    assert config.find_cuda_home({"PATH": ""}, fallback=home)[0] == home


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_bad_cuda_home_is_not_replaced_silently(tmp_path, variable):
    good = make_toolkit(tmp_path / "good")
    bad = tmp_path / "bad"
    (bad / "bin").mkdir(parents=True)
    env = {variable: str(bad), "PATH": str(good / "bin")}
    found, why = config.find_cuda_home(env, fallback=good)
    assert found is None
    assert variable in why and str(bad) in why and "include/cuda_runtime.h" in why


def test_cuda_home_that_does_not_exist(nowhere):
    found, why = config.find_cuda_home({"CUDA_HOME": str(nowhere)})
    assert found is None
    assert "not a directory" in why


def test_runtime_without_headers_is_no_toolkit(tmp_path, nowhere):
    home = make_toolkit(tmp_path / "cuda")
    (home / "include" / "cuda_runtime.h").unlink()
    found, why = config.find_cuda_home({"PATH": str(home / "bin")}, fallback=nowhere)
    assert found is None
    assert "cuda_runtime.h" in why


def test_no_toolkit_at_all(nowhere):
    found, why = config.find_cuda_home({"PATH": ""}, fallback=nowhere)
    assert found is None
    assert "no CUDA toolkit was found" in why


# --- the decision ---------------------------------------------------------------------------------


def test_plan_with_a_matching_toolkit(tmp_path):
    home = make_toolkit(tmp_path / "cuda", "13.2")  # another minor version is fine
    plan = config.plan_cuda(torch_info(), {"CUDA_HOME": str(home)})
    assert (plan.home, plan.version, plan.reason) == (home, "13.2", None)
    assert plan.archs == "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def test_default_archs_are_those_that_nvcc_knows(tmp_path):
    home = make_toolkit(tmp_path / "cuda", "12.4", archs=(50, 60, 70, 75, 80, 86, 87, 89, 90))
    plan = config.plan_cuda(torch_info(cuda="12.6"), {"CUDA_HOME": str(home)})
    assert plan.archs == "7.5;8.0;8.6;8.9;9.0+PTX"


def test_arch_list_of_the_user_is_kept(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    env = {"CUDA_HOME": str(home), "TORCH_CUDA_ARCH_LIST": "8.0;9.0+PTX"}
    assert config.plan_cuda(torch_info(), env).archs == "8.0;9.0+PTX"


def test_mismatch_of_major_versions_is_explained(tmp_path):
    home = make_toolkit(tmp_path / "cuda", "12.8")
    plan = config.plan_cuda(torch_info(), {"CUDA_HOME": str(home)})
    assert plan.home is None
    for part in ("CUDA 12.8", "CUDA 13.0", str(home), "CUDA_HOME", "major versions"):
        assert part in plan.reason


@pytest.mark.parametrize(
    ("torch", "part"),
    [
        (torch_info("2.14.1+cpu", cuda=None), "without CUDA"),
        (torch_info("2.14.1+rocm7", cuda=None, hip="7.0"), "ROCm"),
    ],
)
def test_torch_without_cuda(tmp_path, torch, part):
    plan = config.plan_cuda(torch, {"CUDA_HOME": str(make_toolkit(tmp_path / "cuda"))})
    assert plan.home is None
    assert part in plan.reason


def test_damaged_nvcc(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    make_script(home / "bin" / "nvcc", "exit 1\n")
    plan = config.plan_cuda(torch_info(), {"CUDA_HOME": str(home)})
    assert plan.home is None
    assert "does not tell its version" in plan.reason


def test_force_cuda_makes_it_a_failure(tmp_path, nowhere):
    env = {"FORCE_CUDA": "1", "CUDA_HOME": str(nowhere)}
    with pytest.raises(config.BuildError, match="FORCE_CUDA=1") as error:
        config.plan_cuda(torch_info(), env)
    assert str(nowhere) in str(error.value)
    home = make_toolkit(tmp_path / "cuda")
    assert config.plan_cuda(torch_info(), {**env, "CUDA_HOME": str(home)}).home == home


def test_cpu_only_on_request(tmp_path):
    env = {"FASTCAM_CPU_ONLY": "1", "CUDA_HOME": str(make_toolkit(tmp_path / "cuda"))}
    plan = config.plan_cuda(torch_info(), env)
    assert plan.home is None
    assert "FASTCAM_CPU_ONLY" in plan.reason
    with pytest.raises(config.BuildError, match="contradict"):
        config.plan_cuda(torch_info(), {**env, "FORCE_CUDA": "1"})


@pytest.mark.parametrize(("value", "want"), [("1", True), ("ON", True), ("0", False), ("", False)])
def test_switches(value, want):
    assert config.enabled({"X": value}, "X") is want
    assert config.enabled({}, "X") is False


def test_switch_that_is_neither():
    with pytest.raises(config.BuildError, match="FORCE_CUDA must be 0 or 1, not 'maybe'"):
        config.enabled({"FORCE_CUDA": "maybe"}, "FORCE_CUDA")


# --- torch and the compiler -----------------------------------------------------------------------


def test_missing_torch_is_explained(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(config.BuildError, match="PyTorch is not installed") as error:
        config.check_torch()
    assert "--no-build-isolation" in str(error.value)
    assert error.value.code  # a non-zero exit


@pytest.mark.parametrize("version", ["2.10.0", "2.14.1+cu130", "3.0.0a0"])
def test_torch_that_is_new_enough(version):
    config.check_torch_version(version)


@pytest.mark.parametrize("version", ["1.13.1", "2.9.1+cu128", "nightly"])
def test_torch_that_is_too_old(version):
    with pytest.raises(config.BuildError, match=re.escape(version)):
        config.check_torch_version(version)


def test_missing_build_tools_are_explained():
    config.check_build_tools("77.0.3", pybind11=True)
    with pytest.raises(config.BuildError, match="pybind11 is not installed"):
        config.check_build_tools("84.2.1", pybind11=False)
    with pytest.raises(config.BuildError, match=r"setuptools is 65\.5\.0") as error:
        config.check_build_tools("65.5.0", pybind11=True)
    assert "pip install 'setuptools>=77' ninja pybind11" in str(error.value)


def test_missing_compiler_is_explained(nowhere):
    with pytest.raises(config.BuildError, match="cannot be run"):
        config.check_host_compiler({"CXX": str(nowhere)})


def test_compiler_with_arguments():
    assert config.check_host_compiler({"CXX": "c++ -m64"})


# --- flags ----------------------------------------------------------------------------------------


@pytest.fixture
def cuda_plan(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    return config.CudaPlan(home=home, version="13.0", archs="9.0+PTX")


@pytest.mark.parametrize("name", ["_C", "_C_cuda", "_regions"])
def test_flags_that_must_and_must_not_be_there(name, cuda_plan):
    flags = config.compile_flags(name, torch_info(), cuda_plan, {"FASTCAM_WERROR": "1"})
    for language, options in flags.items():
        text = " ".join(options)
        assert "-march=native" not in text and "fast-math" not in text
        assert ("-Werror all-warnings" if language == "nvcc" else "-Werror") in text
        assert ("TORCH_TARGET_VERSION=0x020a000000000000" in text) == (name != "_regions")
        assert ("-DUSE_CUDA" in options) == (name == "_C_cuda")


def test_warnings_are_errors_in_the_makefiles_builds_only(cuda_plan):
    for name in config.SOURCES:
        flags = config.compile_flags(name, torch_info(), cuda_plan, {})
        assert not any("-Werror" in options for options in flags.values())
    assert "\nexport FASTCAM_WERROR ?= 1\n" in (config.ROOT / "Makefile").read_text()


def test_only_the_cuda_library_links_cuda(cuda_plan):
    libraries = {
        name: config.link_options(name, torch_info(), cuda_plan).get("libraries", [])
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
    options = config.link_options("_C_cuda", torch_info(), plan)
    assert options["libraries"][-1] == ":libcudart.so.13"
    assert options["library_dirs"][-1] == str(home / "lib")


def test_every_source_belongs_to_one_library():
    listed = [source for name in config.SOURCES for source in config.sources(name)]
    assert len(listed) == len(set(listed))
    on_disk = [p for ext in ("cpp", "cu") for p in (ROOT / "csrc").rglob(f"*.{ext}")]
    assert sorted(listed) == sorted(str(p.relative_to(ROOT)) for p in on_disk)


# --- the report -----------------------------------------------------------------------------------


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


# --- setup.py as a user runs it -------------------------------------------------------------------


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
        shutil.copy(ROOT / name, root)
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


# --- what the built libraries need ----------------------------------------------------------------

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
    libraries = sorted((ROOT / "fastcam").glob(f"{stem}.*so"))
    if not libraries:
        info = json.loads((ROOT / "fastcam" / config.BUILD_INFO).read_text())
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
    info = json.loads((ROOT / "fastcam" / config.BUILD_INFO).read_text())
    assert {"_C", "_regions"} <= set(info["libraries"])
    assert set(info["libraries"]) | set(info["skipped"]) == set(config.SOURCES)
    assert (info["cuda"] is None) == ("_C_cuda" in info["skipped"])
    if info["cuda"] is not None:
        assert info["arch_list"] and info["arch_list"][-1].endswith("+PTX")
    else:
        assert info["cuda_reason"]
