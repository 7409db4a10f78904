"""Flags, CUDA discovery and preflight checks of the native build, for ``setup.py``.

It imports nothing outside the standard library, so that an sdist can be made, and a missing torch
explained, without torch. What torch's ``BuildExtension`` does well is left to it (ninja, flags for
architectures, which g++ an nvcc takes); its search for CUDA takes what it finds unseen.

Environment variables:

==========================  ======================================================================
``CUDA_HOME``               the toolkit (it holds ``include/cuda_runtime.h`` and ``bin/nvcc``)
``TORCH_CUDA_ARCH_LIST``    e.g. ``8.0;9.0+PTX``; unset: all ``DEFAULT_ARCHS`` that nvcc knows
``FORCE_CUDA=1``            fail rather than fall back to a CPU-only build
``FASTCAM_CPU_ONLY=1``      do not build the CUDA library
``FASTCAM_WERROR=1``        compiler warnings are errors (in the Makefile's builds they are)
``FASTCAM_SANITIZE``        of the CPU libraries, e.g. ``address,undefined`` (make sanitize-python)
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
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent
BUILD_INFO = "_build_info.json"

MINIMUM_SETUPTOOLS = 77  # license expressions (PEP 639)
MINIMUM_TORCH = (2, 10)
DEFAULT_ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")

# No -march=native (a wheel must run elsewhere), no -ffast-math (NaN and inf are in the contract).
CXX_FLAGS = ("-O3", "-g0", "-std=c++20", "-Wall", "-Wextra", "-fvisibility=hidden")
# At -O1 and above g++ 12 takes ten minutes and more for a file of instrumented vector kernels.
SANITIZED_FLAGS = ("-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-Og", "-g1")
NVCC_FLAGS = ("-O3", "-std=c++20", "-Xcompiler", "-Wall,-Wextra,-fvisibility=hidden")
# What torch's headers have added since MINIMUM_TORCH stays hidden.
STABLE_ABI_DEFINES = ("-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000".format(*MINIMUM_TORCH),)
CUDA_DEFINES = ("-DUSE_CUDA",)  # declares aoti_torch_get_current_cuda_stream

# Sources of each library, relative to the repository.
SOURCES: dict[str, tuple[str, ...]] = {
    "_C": ("csrc/ops/*.cpp", "csrc/cpu/**/*.cpp"),
    "_C_cuda": ("csrc/cuda/**/*.cu",),
    "_regions": ("csrc/regions/*.cpp",),
}

_TORCH_NEEDED = "PyTorch {}.{} or newer".format(*MINIMUM_TORCH)
_PIP_INSTALL = f"pip install 'setuptools>={MINIMUM_SETUPTOOLS}' ninja pybind11"


class BuildError(SystemExit):
    """A problem that the user can solve, told in one message (and no traceback)."""

    def __init__(self, message: str) -> None:
        super().__init__("\n" + box("fastcam cannot be built", message))


class CudaPlan(NamedTuple):
    """Whether the CUDA library is built: ``home`` is set, or ``reason`` says why not."""

    home: Path | None = None
    version: str | None = None
    archs: str | None = None
    reason: str | None = None


def box(title: str, message: str) -> str:
    """A message that is seen in a long build log."""
    rule = "=" * 88
    fill = textwrap.TextWrapper(86, break_long_words=False, break_on_hyphens=False).fill
    lines = "\n".join(map(fill, message.splitlines()))
    return f"{rule}\n  {title}\n\n{textwrap.indent(lines, '  ')}\n{rule}"


def enabled(env: Mapping[str, str], name: str) -> bool:
    """Read a 0/1 environment variable; unset or empty is 0."""
    value = env.get(name, "").strip().lower()
    if value not in ("", "0", "false", "off", "no", "1", "true", "on", "yes"):
        raise BuildError(f"{name} must be 0 or 1, not {env[name]!r}.")
    return value in ("1", "true", "on", "yes")


def run(*command: str | Path) -> str:
    """Output (stdout and stderr) of a command; empty when it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def check_torch() -> ModuleType:
    """The torch to build against; BuildError if it is missing, broken or too old."""
    if importlib.util.find_spec("torch") is None:
        raise BuildError(
            f"PyTorch is not installed for {sys.executable}.\n\n"
            "fastcam compiles against the PyTorch that you will run it with. Install "
            f"{_TORCH_NEEDED} first, then build without an isolated environment:\n\n"
            f"    {_PIP_INSTALL} torch\n"
            "    pip install --no-build-isolation ."
        )
    try:
        import torch
    except Exception as error:  # OSError, ImportError, RuntimeError ... of a broken installation
        raise BuildError(f"PyTorch is installed but 'import torch' fails: {error}") from error
    match = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if match is None or tuple(map(int, match.groups())) < MINIMUM_TORCH:
        raise BuildError(
            f"fastcam needs {_TORCH_NEEDED} (stable C++ ABI); this is {torch.__version__}."
        )
    return torch


def absent_tools() -> list[str]:
    """Which of the programs and modules that a build needs are not there.

    Without ninja torch would compile file after file, and take no notice of a changed header.
    """
    ninja = shutil.which("ninja") or importlib.util.find_spec("ninja")
    found = {"ninja": ninja, "pybind11": importlib.util.find_spec("pybind11")}
    return [name for name, where in found.items() if not where]


def check_build_tools(setuptools_version: str, absent: Sequence[str] = ()) -> None:
    """BuildError when what pyproject.toml's ``build-system`` names is not there.

    pip installs these itself for an isolated build, but not with ``--no-build-isolation``.
    """
    missing = [f"{name} is not installed" for name in absent]
    if int(setuptools_version.split(".")[0]) < MINIMUM_SETUPTOOLS:
        missing.append(f"setuptools is {setuptools_version}, older than {MINIMUM_SETUPTOOLS}")
    if missing:
        raise BuildError(
            f"{' and '.join(missing)} in {sys.executable}. Before an installation with "
            f"--no-build-isolation:\n\n    {_PIP_INSTALL}"
        )


def check_host_compiler(env: Mapping[str, str]) -> str:
    """Version line of the C++ compiler; BuildError without one."""
    compiler = env.get("CXX", "c++")
    if len(compiler.split()) > 1 and shutil.which(compiler) is None:
        raise BuildError(
            f"CXX={compiler!r}: torch's builder takes it for the name of one program. Give options "
            "in CFLAGS; for ccache put the folder of its links (often /usr/lib/ccache) before "
            "the compiler's in PATH, and leave CXX at g++."
        )
    version = run(compiler, "--version").strip()
    if not version:
        raise BuildError(
            f"The C++ compiler {compiler!r} cannot be run. Install g++ 12 or newer, or point CXX "
            "at one."
        )
    return version.splitlines()[0]


def missing_of_toolkit(home: Path) -> list[str]:
    """What keeps ``home`` from being a CUDA toolkit that something can be compiled with."""
    return [p for p in ("include/cuda_runtime.h", "bin/nvcc") if not (home / p).is_file()]


def toolkit_of_nvcc(nvcc: Path) -> Path | None:
    """The toolkit that an nvcc belongs to, also when it is a link or a script that calls another.

    A real nvcc tells where it stands when asked what it would do (``--dryrun`` prints ``TOP`` and
    ``_HERE_``), and a wrapper passes that on.
    """
    homes = [nvcc.parent.parent, nvcc.resolve().parent.parent]
    output = run(nvcc, "--dryrun", "-E", "-x", "cu", os.devnull) if nvcc.is_file() else ""
    told = dict(re.findall(r"^#\$ (TOP|_HERE_)=(.+)$", output, re.M))
    for name, up in (("_HERE_", "/.."), ("TOP", "")):
        if name in told:
            homes.append(Path(os.path.normpath(told[name].strip() + up)))
    return next((home for home in homes if not missing_of_toolkit(home)), None)


def find_cuda_home(
    env: Mapping[str, str], fallback: Path = Path("/usr/local/cuda")
) -> tuple[Path | None, str]:
    """A valid CUDA toolkit and how it was found, or None and the reason.

    Order: ``CUDA_HOME`` or ``CUDA_PATH`` (if set, nothing else is tried), the nvcc on ``PATH``,
    ``/usr/local/cuda``.
    """
    name = next((name for name in ("CUDA_HOME", "CUDA_PATH") if env.get(name)), None)
    nvcc = Path(env[name], "bin/nvcc") if name else shutil.which("nvcc", path=env.get("PATH", ""))
    found = toolkit_of_nvcc(Path(nvcc)) if nvcc else None
    if found is not None:
        return found, f"found through {f'{name}={env[name]}' if name else nvcc}"
    if name and not Path(env[name]).is_dir():
        return None, f"{name}={env[name]} is not a directory."
    if name:
        missing = " and no ".join(missing_of_toolkit(Path(env[name])))
        return None, (
            f"{name}={env[name]} is not a CUDA toolkit: it has no {missing}. Set {name} to the "
            "toolkit's own directory (often /usr/local/cuda-X.Y), or unset it to let fastcam "
            "search."
        )
    if not missing_of_toolkit(fallback):
        return fallback, "default location"
    if nvcc:
        return None, f"{nvcc} leads to no toolkit with include/cuda_runtime.h; set CUDA_HOME."
    return None, "no CUDA toolkit was found (no nvcc on PATH, no /usr/local/cuda, no CUDA_HOME)."


def _archs(text: str) -> list[str]:
    """``["8.0", "9.0"]`` of a text with ``compute_80`` and ``compute_90`` in it, sorted."""
    return [
        f"{n // 10}.{n % 10}" for n in sorted(set(map(int, re.findall(r"compute_(\d+)", text))))
    ]


def known_archs(home: Path | None) -> list[str]:
    """The architectures that this toolkit compiles for; empty when it does not say."""
    return _archs(run(home / "bin/nvcc", "--list-gpu-arch")) if home else []


def plan_cuda(torch: ModuleType, env: Mapping[str, str]) -> CudaPlan:
    """Decide whether the CUDA library can be built; BuildError if it cannot, but was asked for."""
    force, cpu_only = enabled(env, "FORCE_CUDA"), enabled(env, "FASTCAM_CPU_ONLY")
    if force and cpu_only:
        raise BuildError(
            "FORCE_CUDA=1 and FASTCAM_CPU_ONLY=1 contradict each other; set one of them."
        )
    if cpu_only:
        return CudaPlan(reason="FASTCAM_CPU_ONLY=1 asks for a CPU-only build.")
    plan = _plan_cuda(torch, env)
    if force and plan.home is None:
        raise BuildError(f"FORCE_CUDA=1, but the CUDA library cannot be built: {plan.reason}")
    return plan


def _plan_cuda(torch: ModuleType, env: Mapping[str, str]) -> CudaPlan:
    this = f"this PyTorch ({torch.__version__})"
    if torch.version.hip is not None:
        return CudaPlan(reason=f"{this} is a ROCm build; fastcam has CUDA kernels only.")
    if torch.version.cuda is None:
        return CudaPlan(reason=f"{this} was built without CUDA.")
    home, how = find_cuda_home(env)
    if home is None:
        return CudaPlan(reason=how)
    match = re.search(r"release ((\d+)\.\d+)", run(home / "bin/nvcc", "--version"))
    if match is None:
        reason = f"{home}/bin/nvcc does not tell its version; the toolkit is damaged ({how})."
        return CudaPlan(reason=reason)
    version, major = match.groups()
    wanted = torch.version.cuda.split(".")[0]
    if major != wanted:
        reason = (
            f"nvcc is CUDA {version} ({home}), but {this} was built for CUDA {torch.version.cuda}: "
            f"the major versions must agree. Point CUDA_HOME at a CUDA {wanted} toolkit, or "
            f"install a PyTorch built for CUDA {major}."
        )
        return CudaPlan(reason=reason)
    known = known_archs(home)
    archs = ";".join([arch for arch in DEFAULT_ARCHS if arch in known] or DEFAULT_ARCHS)
    # PTX of the last: for newer GPUs.
    return CudaPlan(home, version, env.get("TORCH_CUDA_ARCH_LIST") or f"{archs}+PTX")


def check_archs(cuda: CudaPlan, torch: ModuleType, expand: Callable[[], Sequence[str]]) -> None:
    """BuildError for architectures that torch or nvcc does not know.

    ``expand`` is torch's reading of ``TORCH_CUDA_ARCH_LIST``, as flags for nvcc.
    """
    asked = f"TORCH_CUDA_ARCH_LIST={cuda.archs!r}"
    known = known_archs(cuda.home)
    choices = ", ".join(known) or "8.0, 9.0"
    try:
        flags = expand()
    except (ValueError, IndexError, RuntimeError):  # unknown names; "native" without a GPU
        raise BuildError(
            f"{asked}: PyTorch {torch.__version__} finds no architecture for it. Give numbers with "
            f"';' between, such as 8.0;9.0+PTX; this nvcc knows {choices}."
        ) from None
    unknown = [arch for arch in _archs(" ".join(flags)) if known and arch not in known]
    if unknown:
        raise BuildError(
            f"{asked}: nvcc {cuda.version} ({cuda.home}) cannot compile for {', '.join(unknown)}; "
            f"it knows {choices}."
        )


def sources(name: str) -> list[str]:
    """Sources of library ``name``, relative to the repository and sorted."""
    found = [p for pattern in SOURCES[name] for p in ROOT.glob(pattern)]
    return sorted(str(p.relative_to(ROOT)) for p in found)


def extension_options(name: str, cuda: CudaPlan, env: Mapping[str, str]) -> dict[str, Any]:
    """Keyword arguments for a setuptools Extension: how library ``name`` is compiled and linked.

    There is no rpath: torch is imported before these libraries are loaded, and the loader then
    finds what they need by soname.
    """
    link: dict[str, list[str]] = {"extra_link_args": ["-Wl,--as-needed"]}
    shared = ["-I", str(ROOT / "csrc")]
    sanitizers = env.get("FASTCAM_SANITIZE", "")
    if name == "_regions":
        import pybind11

        headers = [pybind11.get_include()]
    else:
        from torch.utils import cpp_extension

        headers = cpp_extension.include_paths()
        shared += STABLE_ABI_DEFINES
        if not sanitizers:  # what these need comes with the program
            link["extra_link_args"].append("-Wl,-z,defs")
        link |= {"libraries": ["torch_cpu"], "library_dirs": cpp_extension.library_paths()}
    for folder in headers:
        if folder != "/usr/include":  # -isystem: warnings as errors concern our own code only
            shared += ["-isystem", folder]
    werror = enabled(env, "FASTCAM_WERROR")
    if name == "_C_cuda" and cuda.home is not None:
        folder, cudart = _cudart(cuda.home)
        link["library_dirs"].append(folder)
        link["libraries"] += ["torch_cuda", cudart]
        errors = ["-Werror", "all-warnings"] if werror else []
        flags = {"nvcc": [*NVCC_FLAGS, *CUDA_DEFINES, *shared, *errors]}
    else:
        flags = {"cxx": [*CXX_FLAGS, *shared, *(["-Werror"] if werror else [])]}
        if sanitizers:
            flags["cxx"] += [f"-fsanitize={sanitizers}", *SANITIZED_FLAGS]
            link["extra_link_args"].append(f"-fsanitize={sanitizers}")
    return {"extra_compile_args": flags, **link}


def _cudart(home: Path) -> tuple[str, str]:
    """Directory and link name of the CUDA runtime (toolkits from wheels lack libcudart.so)."""
    machine = platform.machine()
    target = "sbsa" if machine == "aarch64" else machine  # NVIDIA's name of Arm servers
    for name in ("lib64", "lib", f"targets/{target}-linux/lib"):
        for library in sorted((home / name).glob("libcudart.so*")):
            return str(library.parent), "cudart" if library.suffix == ".so" else f":{library.name}"
    return f"{home}/lib64", "cudart"


def report(package: Path = ROOT / "fastcam") -> str:
    """What the last in-place build left out, as a box; empty when nothing was."""
    path = package / BUILD_INFO
    if not path.exists():
        return box("NOT BUILT", "fastcam's native libraries are not built yet: run 'make setup'.")
    lines = [f"{name}: {why}" for name, why in json.loads(path.read_text())["skipped"].items()]
    return box("SKIPPED IN THIS BUILD (and so were its tests)", "\n".join(lines)) if lines else ""


def main(arguments: list[str]) -> int:
    """For the Makefile. ``report``: what was skipped. ``cuda-home``: the toolkit (or fail)."""
    if arguments == ["cuda-home"]:
        home, how = find_cuda_home(os.environ)
        print(home or how, file=sys.stdout if home else sys.stderr)
        return 0 if home else 1
    if report():
        print(report())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
