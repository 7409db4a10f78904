"""Flags, CUDA discovery and preflight checks of the native build.

This is the only module that knows how fastcam's libraries are compiled; ``setup.py`` turns its
answers into setuptools commands. It imports nothing outside the standard library, so that an sdist
can be made, and a missing torch explained, without torch.

Environment variables:

==========================  ======================================================================
``CUDA_HOME``               the toolkit (it holds ``include/cuda_runtime.h`` and ``bin/nvcc``)
``TORCH_CUDA_ARCH_LIST``    architectures, e.g. ``"8.0;9.0+PTX"``; unset: every one of
                            ``DEFAULT_ARCHS`` that nvcc knows
``FORCE_CUDA=1``            fail rather than fall back to a CPU-only build
``FASTCAM_CPU_ONLY=1``      do not build the CUDA library
``FASTCAM_WERROR=1``        compiler warnings are errors (in the Makefile's builds they are)
``MAX_JOBS``                parallel compiler processes
==========================  ======================================================================
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BUILD_INFO = "_build_info.json"

MINIMUM_SETUPTOOLS = 77  # license expressions (PEP 639)
MINIMUM_TORCH = (2, 10)
# MINIMUM_TORCH in torch's encoding; what its headers have added since stays hidden.
TORCH_TARGET_VERSION = "0x020a000000000000"
DEFAULT_ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")

# No -march=native (a wheel must run elsewhere), no -ffast-math (NaN and inf are in the contract).
CXX_FLAGS = ("-O3", "-g0", "-std=c++20", "-Wall", "-Wextra", "-fvisibility=hidden")
NVCC_FLAGS = ("-O3", "-std=c++20", "-Xcompiler", "-Wall,-Wextra,-fvisibility=hidden")
STABLE_ABI_DEFINES = (f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",)
CUDA_DEFINES = ("-DUSE_CUDA",)  # declares aoti_torch_get_current_cuda_stream

# Sources of each library, relative to the repository.
SOURCES: dict[str, tuple[str, ...]] = {
    "_C": ("csrc/ops/*.cpp", "csrc/cpu/**/*.cpp"),
    "_C_cuda": ("csrc/cuda/**/*.cu",),
    "_regions": ("csrc/regions/*.cpp",),
}

Run = Callable[[Sequence[str]], str]


class BuildError(SystemExit):
    """A problem that the user can solve, told in one message (and no traceback)."""

    def __init__(self, message: str) -> None:
        super().__init__("\n" + box("fastcam cannot be built", message))


@dataclass(frozen=True)
class TorchInfo:
    """The torch that the libraries are built against."""

    version: str
    cuda: str | None
    hip: str | None
    path: Path


@dataclass(frozen=True)
class CudaPlan:
    """Whether the CUDA library is built: ``home`` is set, or ``reason`` says why not."""

    home: Path | None = None
    version: str | None = None
    archs: str | None = None
    reason: str | None = None


def box(title: str, message: str) -> str:
    """A message that is seen in a long build log."""
    rule = "=" * 88
    paragraphs = [
        textwrap.fill(p, 86, break_long_words=False, break_on_hyphens=False)
        for p in message.splitlines()
    ]
    return "\n".join(
        [rule, f"  {title}", "", *textwrap.indent("\n".join(paragraphs), "  ").split("\n"), rule]
    )


def enabled(env: Mapping[str, str], name: str) -> bool:
    """Read a 0/1 environment variable; unset or empty is 0."""
    value = env.get(name, "").strip().lower()
    if value not in ("", "0", "false", "off", "no", "1", "true", "on", "yes"):
        raise BuildError(f"{name} must be 0 or 1, not {env[name]!r}.")
    return value in ("1", "true", "on", "yes")


def run_tool(command: Sequence[str]) -> str:
    """Output (stdout and stderr) of a command; empty when it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


# --- torch and the host compiler -----------------------------------------------------------------


def check_torch() -> TorchInfo:
    """Find torch and check its version.

    Raises:
        BuildError: torch is missing, cannot be imported, or is older than 2.10.
    """
    if importlib.util.find_spec("torch") is None:
        raise BuildError(
            f"PyTorch is not installed for {sys.executable}.\n\n"
            "fastcam compiles against the PyTorch that you will run it with. Install PyTorch "
            f"{'.'.join(map(str, MINIMUM_TORCH))} or newer first, then build without an isolated "
            "environment:\n\n"
            f"    pip install torch 'setuptools>={MINIMUM_SETUPTOOLS}' ninja pybind11\n"
            "    pip install --no-build-isolation ."
        )
    try:
        import torch
    except Exception as error:  # OSError, ImportError, RuntimeError ... of a broken installation
        raise BuildError(f"PyTorch is installed but 'import torch' fails: {error}") from error
    info = TorchInfo(
        torch.__version__, torch.version.cuda, torch.version.hip, Path(torch.__file__).parent
    )
    check_torch_version(info.version)
    return info


def check_torch_version(version: str) -> None:
    """Raise BuildError for a torch older than the stable ABI that fastcam uses."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or tuple(map(int, match.groups())) < MINIMUM_TORCH:
        minimum = ".".join(map(str, MINIMUM_TORCH))
        raise BuildError(
            f"fastcam needs PyTorch {minimum} or newer (stable C++ ABI); this is {version}."
        )


def check_build_tools(setuptools_version: str, pybind11: bool | None = None) -> None:
    """Raise BuildError when what pyproject.toml's ``build-system`` names is not there.

    pip installs these itself for an isolated build, but not with ``--no-build-isolation``.
    """
    if pybind11 is None:
        pybind11 = importlib.util.find_spec("pybind11") is not None
    missing = [] if pybind11 else ["pybind11 is not installed"]
    if int(setuptools_version.split(".")[0]) < MINIMUM_SETUPTOOLS:
        missing.append(f"setuptools is {setuptools_version}, older than {MINIMUM_SETUPTOOLS}")
    if missing:
        raise BuildError(
            f"{' and '.join(missing)} in {sys.executable}. Before an installation with "
            "--no-build-isolation:\n\n"
            f"    pip install 'setuptools>={MINIMUM_SETUPTOOLS}' ninja pybind11"
        )


def check_host_compiler(env: Mapping[str, str], run: Run = run_tool) -> str:
    """First line of the C++ compiler's ``--version``.

    Raises:
        BuildError: there is no C++ compiler, or Python's headers are missing.
    """
    compiler = env.get("CXX", "c++").split()
    version = run([*compiler, "--version"]).strip()
    if not version:
        raise BuildError(
            f"The C++ compiler {' '.join(compiler)!r} cannot be run. Install g++ 12 or newer, or "
            "point CXX at one."
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise BuildError(
            f"Python's headers are missing ({header}). Install your system's python3-dev package."
        )
    return version.splitlines()[0]


# --- CUDA ----------------------------------------------------------------------------------------


TOOLKIT_FILES = ("include/cuda_runtime.h", "bin/nvcc")


def is_toolkit(home: Path) -> bool:
    """Whether ``home`` is a CUDA toolkit that something can be compiled with."""
    return all((home / p).is_file() for p in TOOLKIT_FILES)


def toolkit_of_nvcc(nvcc: Path, run: Run = run_tool) -> Path | None:
    """The toolkit that an nvcc belongs to, also when it is a link or a script that calls another.

    A real nvcc tells where it stands when asked what it would do (``--dryrun`` prints ``TOP`` and
    ``_HERE_``), and a wrapper passes that on.
    """
    for home in (nvcc.parent.parent, nvcc.resolve().parent.parent):
        if is_toolkit(home):
            return home
    output = run([str(nvcc), "--dryrun", "-E", "-x", "cu", os.devnull])
    told = dict(re.findall(r"^#\$ (TOP|_HERE_)=(.+)$", output, re.M))
    candidates = [told[k].strip() + up for k, up in (("_HERE_", "/.."), ("TOP", "")) if k in told]
    homes = [Path(os.path.normpath(candidate)) for candidate in candidates]
    return next((home for home in homes if is_toolkit(home)), None)


def find_cuda_home(
    env: Mapping[str, str],
    run: Run = run_tool,
    fallback: Path = Path("/usr/local/cuda"),
) -> tuple[Path | None, str]:
    """Find a valid CUDA toolkit.

    Order: ``CUDA_HOME`` or ``CUDA_PATH`` (if set, nothing else is tried), the nvcc on ``PATH``,
    ``/usr/local/cuda``.

    Returns:
        The toolkit and a note on how it was found, or None and the reason.
    """
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if env.get(name):
            home = Path(env[name])
            if is_toolkit(home):
                return home, f"{name}={home}"
            if not home.is_dir():
                return None, f"{name}={home} is not a directory."
            nvcc = home / "bin" / "nvcc"
            behind = toolkit_of_nvcc(nvcc, run) if nvcc.is_file() else None
            if behind is not None:
                return behind, f"{name}={home} holds a wrapper of {behind}/bin/nvcc"
            missing = [p for p in TOOLKIT_FILES if not (home / p).is_file()]
            return None, (
                f"{name}={home} is not a CUDA toolkit: it has no {' and no '.join(missing)}. "
                f"Set {name} to the toolkit's own directory (often /usr/local/cuda-X.Y), or unset "
                "it to let fastcam search."
            )
    on_path = shutil.which("nvcc", path=env.get("PATH", ""))
    if on_path:
        behind = toolkit_of_nvcc(Path(on_path), run)
        if behind is not None:
            return behind, f"found through {on_path}"
    if is_toolkit(fallback):
        return fallback, "default location"
    if on_path:
        return None, (
            f"{on_path} does not lead to a CUDA toolkit with include/cuda_runtime.h. "
            "Set CUDA_HOME to the toolkit."
        )
    return (
        None,
        "no CUDA toolkit was found (no nvcc on PATH, no /usr/local/cuda, CUDA_HOME is unset).",
    )


def nvcc_version(home: Path, run: Run = run_tool) -> str | None:
    """``"13.0"`` for CUDA 13.0; None when nvcc does not say."""
    match = re.search(r"release (\d+\.\d+)", run([str(home / "bin" / "nvcc"), "--version"]))
    return match.group(1) if match else None


def _archs(text: str) -> list[str]:
    """``["8.0", "9.0"]`` of a text with ``compute_80`` and ``compute_90`` in it, sorted."""
    numbers = sorted({int(n) for n in re.findall(r"compute_(\d+)", text)})
    return [f"{n // 10}.{n % 10}" for n in numbers]


def known_archs(home: Path, run: Run = run_tool) -> list[str]:
    """The architectures that this nvcc compiles for; empty when it does not say."""
    return _archs(run([str(home / "bin" / "nvcc"), "--list-gpu-arch"]))


def default_arch_list(home: Path, run: Run = run_tool) -> str:
    """The default architectures that this nvcc knows, the last one also as PTX for newer GPUs."""
    known = known_archs(home, run)
    return ";".join([a for a in DEFAULT_ARCHS if a in known] or DEFAULT_ARCHS) + "+PTX"


def plan_cuda(
    torch: TorchInfo, env: Mapping[str, str], run: Run = run_tool, **search: Path
) -> CudaPlan:
    """Decide whether the CUDA library can be built.

    Raises:
        BuildError: ``FORCE_CUDA=1`` and it cannot be built, or contradicting variables.
    """
    force, cpu_only = enabled(env, "FORCE_CUDA"), enabled(env, "FASTCAM_CPU_ONLY")
    if force and cpu_only:
        raise BuildError(
            "FORCE_CUDA=1 and FASTCAM_CPU_ONLY=1 contradict each other; set one of them."
        )
    if cpu_only:
        return CudaPlan(reason="FASTCAM_CPU_ONLY=1 asks for a CPU-only build.")
    plan = _plan_cuda(torch, env, run, **search)
    if force and plan.home is None:
        raise BuildError(f"FORCE_CUDA=1, but the CUDA library cannot be built: {plan.reason}")
    return plan


def _plan_cuda(torch: TorchInfo, env: Mapping[str, str], run: Run, **search: Path) -> CudaPlan:
    if torch.hip is not None:
        return CudaPlan(
            reason=f"this PyTorch ({torch.version}) is a ROCm build; fastcam has CUDA kernels only."
        )
    if torch.cuda is None:
        return CudaPlan(reason=f"this PyTorch ({torch.version}) was built without CUDA.")
    home, how = find_cuda_home(env, run, **search)
    if home is None:
        return CudaPlan(reason=how)
    version = nvcc_version(home, run)
    if version is None:
        return CudaPlan(
            reason=f"{home}/bin/nvcc does not tell its version; the toolkit is damaged ({how})."
        )
    if version.split(".")[0] != torch.cuda.split(".")[0]:
        major = torch.cuda.split(".")[0]
        return CudaPlan(
            reason=(
                f"nvcc is CUDA {version} ({home}), but this PyTorch ({torch.version}) was built "
                f"for CUDA {torch.cuda}: the major versions must agree. Point CUDA_HOME at a CUDA "
                f"{major} toolkit, or install a PyTorch built for CUDA {version.split('.')[0]}."
            )
        )
    archs = env.get("TORCH_CUDA_ARCH_LIST") or default_arch_list(home, run)
    return CudaPlan(home=home, version=version, archs=archs)


def check_archs(
    cuda: CudaPlan, torch: TorchInfo, expand: Callable[[], Sequence[str]], run: Run = run_tool
) -> None:
    """Raise BuildError for architectures that torch or nvcc does not know.

    Args:
        cuda: the plan, with a toolkit.
        torch: for its version.
        expand: torch's reading of ``TORCH_CUDA_ARCH_LIST``, as flags for nvcc.
        run: runs nvcc.
    """
    asked = f"TORCH_CUDA_ARCH_LIST={cuda.archs!r}"
    known = known_archs(cuda.home, run) if cuda.home else []
    choices = ", ".join(known) or "8.0, 9.0"
    try:
        flags = expand()
    except (ValueError, IndexError, RuntimeError):  # unknown names; "native" without a GPU
        raise BuildError(
            f"{asked}: PyTorch {torch.version} finds no architecture for it. Give numbers with ';' "
            f"between, such as 8.0;9.0+PTX; this nvcc knows {choices}."
        ) from None
    unknown = [arch for arch in _archs(" ".join(flags)) if known and arch not in known]
    if unknown:
        raise BuildError(
            f"{asked}: nvcc {cuda.version} ({cuda.home}) cannot compile for {', '.join(unknown)}; "
            f"it knows {choices}."
        )


# --- what is compiled, and how -------------------------------------------------------------------


def sources(name: str) -> list[str]:
    """Sources of library ``name``, relative to the repository and sorted."""
    found = [p for pattern in SOURCES[name] for p in ROOT.glob(pattern)]
    return sorted(str(p.relative_to(ROOT)) for p in found)


def system_include(*directories: Path | str) -> list[str]:
    """``-isystem`` flags: warnings as errors concern our own code only."""
    return [flag for d in directories if str(d) != "/usr/include" for flag in ("-isystem", str(d))]


def compile_flags(
    name: str, torch: TorchInfo, cuda: CudaPlan, env: Mapping[str, str]
) -> dict[str, list[str]]:
    """Compiler flags of library ``name``, for the C++ compiler (``cxx``) and for ``nvcc``."""
    werror = enabled(env, "FASTCAM_WERROR")
    include = ["-I", str(ROOT / "csrc")]
    cxx = [*CXX_FLAGS, *include, *(["-Werror"] if werror else [])]
    if name == "_regions":
        import pybind11

        return {"cxx": [*cxx, *system_include(pybind11.get_include())]}
    cxx += [*STABLE_ABI_DEFINES, *system_include(torch.path / "include")]
    if name == "_C":
        return {"cxx": cxx}
    assert cuda.home is not None
    shared = [*CUDA_DEFINES, *system_include(cuda.home / "include")]
    nvcc = [*NVCC_FLAGS, *include, *(["-Werror", "all-warnings"] if werror else [])]
    nvcc += [*STABLE_ABI_DEFINES, *system_include(torch.path / "include"), *CUDA_DEFINES]
    return {"cxx": cxx + shared, "nvcc": nvcc}


def link_options(name: str, torch: TorchInfo, cuda: CudaPlan) -> dict[str, list[str]]:
    """Keyword arguments for a setuptools Extension.

    There is no rpath: torch is imported before these libraries are loaded, and the loader then
    finds what they need by soname.
    """
    if name == "_regions":
        return {"extra_link_args": ["-Wl,--as-needed"]}
    options = {
        "library_dirs": [str(torch.path / "lib")],
        "libraries": ["torch_cpu"],
        "extra_link_args": ["-Wl,-z,defs", "-Wl,--as-needed"],
    }
    if name == "_C_cuda":
        assert cuda.home is not None
        directory, cudart = _cudart(cuda.home)
        options["library_dirs"].append(str(directory))
        options["libraries"] += ["torch_cuda", cudart]
    return options


def _cudart(home: Path) -> tuple[Path, str]:
    """Directory and link name of the CUDA runtime (toolkits from wheels lack libcudart.so)."""
    for name in ("lib64", "lib", f"targets/{platform.machine()}-linux/lib"):
        directory = home / name
        if (directory / "libcudart.so").exists():
            return directory, "cudart"
        for versioned in sorted(directory.glob("libcudart.so.*")):
            return directory, f":{versioned.name}"
    return home / "lib64", "cudart"


# --- command line (used by the Makefile) ---------------------------------------------------------


def report(package: Path = ROOT / "fastcam") -> str:
    """What the last in-place build left out, as a box; empty when nothing was."""
    path = package / BUILD_INFO
    if not path.exists():
        return box("NOT BUILT", "fastcam's native libraries are not built yet: run 'make setup'.")
    info = json.loads(path.read_text())
    lines = [f"{name}: {why}" for name, why in info["skipped"].items()]
    return box("SKIPPED IN THIS BUILD (and so were its tests)", "\n".join(lines)) if lines else ""


def main(arguments: Sequence[str]) -> int:
    """``report``: print what was skipped. ``cuda-home``: print the toolkit (or fail)."""
    if list(arguments) == ["report"]:
        print(report(), end="\n" if report() else "")
        return 0
    if list(arguments) == ["cuda-home"]:
        home, how = find_cuda_home(os.environ)
        print(home or how, file=sys.stdout if home else sys.stderr)
        return 0 if home else 1
    print(main.__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
