"""Finding a CUDA toolkit, deciding whether to build with it, and for which architectures."""

from __future__ import annotations

import pytest
from toolkits import make_script, make_toolkit, torch_with

import build_config as config


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


def test_plan_with_a_matching_toolkit(tmp_path):
    home = make_toolkit(tmp_path / "cuda", "13.2")  # another minor version is fine
    plan = config.plan_cuda(torch_with(), {"CUDA_HOME": str(home)})
    assert (plan.home, plan.version, plan.reason) == (home, "13.2", None)
    assert plan.archs == "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def test_default_archs_are_those_that_nvcc_knows(tmp_path):
    home = make_toolkit(tmp_path / "cuda", "12.4", archs=(50, 60, 70, 75, 80, 86, 87, 89, 90))
    plan = config.plan_cuda(torch_with(cuda="12.6"), {"CUDA_HOME": str(home)})
    assert plan.archs == "7.5;8.0;8.6;8.9;9.0+PTX"


def test_arch_list_of_the_user_is_kept(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    env = {"CUDA_HOME": str(home), "TORCH_CUDA_ARCH_LIST": "8.0;9.0+PTX"}
    assert config.plan_cuda(torch_with(), env).archs == "8.0;9.0+PTX"


def test_mismatch_of_major_versions_is_explained(tmp_path):
    home = make_toolkit(tmp_path / "cuda", "12.8")
    plan = config.plan_cuda(torch_with(), {"CUDA_HOME": str(home)})
    assert plan.home is None
    for part in ("CUDA 12.8", "CUDA 13.0", str(home), "CUDA_HOME", "major versions"):
        assert part in plan.reason


@pytest.mark.parametrize(
    ("torch", "part"),
    [
        (torch_with("2.14.1+cpu", cuda=None), "without CUDA"),
        (torch_with("2.14.1+rocm7", cuda=None, hip="7.0"), "ROCm"),
    ],
)
def test_torch_without_cuda(tmp_path, torch, part):
    plan = config.plan_cuda(torch, {"CUDA_HOME": str(make_toolkit(tmp_path / "cuda"))})
    assert plan.home is None
    assert part in plan.reason


def test_damaged_nvcc(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    make_script(home / "bin" / "nvcc", "exit 1\n")
    plan = config.plan_cuda(torch_with(), {"CUDA_HOME": str(home)})
    assert plan.home is None
    assert "does not tell its version" in plan.reason


def test_force_cuda_makes_it_a_failure(tmp_path, nowhere):
    env = {"FORCE_CUDA": "1", "CUDA_HOME": str(nowhere)}
    with pytest.raises(config.BuildError, match="FORCE_CUDA=1") as error:
        config.plan_cuda(torch_with(), env)
    assert str(nowhere) in str(error.value)
    home = make_toolkit(tmp_path / "cuda")
    assert config.plan_cuda(torch_with(), {**env, "CUDA_HOME": str(home)}).home == home


def test_cpu_only_on_request(tmp_path):
    env = {"FASTCAM_CPU_ONLY": "1", "CUDA_HOME": str(make_toolkit(tmp_path / "cuda"))}
    plan = config.plan_cuda(torch_with(), env)
    assert plan.home is None
    assert "FASTCAM_CPU_ONLY" in plan.reason
    with pytest.raises(config.BuildError, match="contradict"):
        config.plan_cuda(torch_with(), {**env, "FORCE_CUDA": "1"})


@pytest.mark.parametrize(
    ("archs", "flags", "parts"),
    [
        ("3.5", ["arch=compute_35,code=sm_35"], ("cannot compile for 3.5;", "7.5, 8.0")),
        ("8.0;9.9+PTX", ["arch=compute_80,code=sm_80", "arch=compute_99,code=sm_99"], ("9.9;",)),
        ("banana", ValueError("Unknown CUDA arch (banana)"), ("no architecture for it", "8.0;9.0")),
        ("native", IndexError("list index out of range"), ("no architecture for it",)),
    ],
)
def test_unknown_architectures_are_named(tmp_path, archs, flags, parts):
    def expand():
        if isinstance(flags, Exception):
            raise flags
        return flags

    home = make_toolkit(tmp_path / "cuda", "13.0", archs=(75, 80, 90))
    env = {"CUDA_HOME": str(home), "TORCH_CUDA_ARCH_LIST": archs}
    plan = config.plan_cuda(torch_with(), env)
    with pytest.raises(config.BuildError) as error:
        config.check_archs(plan, torch_with(), expand)
    text = " ".join(str(error.value).split())
    for part in (f"TORCH_CUDA_ARCH_LIST={archs!r}", *parts):
        assert part in text
    known = ["-gencode=arch=compute_90a,code=sm_90a", "-gencode=arch=compute_80,code=compute_80"]
    config.check_archs(plan, torch_with(), lambda: known)
