"""Build fastcam's native libraries (flags: build_config.py; the rest: pyproject.toml)."""

from __future__ import annotations

import datetime
import fcntl
import filecmp
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent))

import build_config as config

os.chdir(config.ROOT)
config.check_build_tools(setuptools.__version__, pybind11=True)  # before pyproject.toml is read

if importlib.util.find_spec("torch") is not None:
    # torch looks for CUDA and ninja while it is imported and built with, so both are settled first.
    if importlib.util.find_spec("ninja") is not None and shutil.which("ninja") is None:
        import ninja

        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")])
    _home, _ = config.find_cuda_home(os.environ)
    if _home is not None:
        os.environ["CUDA_HOME"] = str(_home)
    from torch.utils.cpp_extension import BuildExtension as Base
else:
    Base = build_ext  # type: ignore[misc]


class BuildNative(Base):  # type: ignore[misc, valid-type]
    """Preflight, then one ninja build per library, then ``_build_info.json``."""

    user_options: ClassVar = [
        *build_ext.user_options,
        ("only=", None, "build these libraries only, e.g. _C_cuda"),
    ]

    def initialize_options(self) -> None:
        super().initialize_options()
        self.only: str | None = None

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.editable_mode:  # not setuptools' temporary folder: the next build needs the objects
            self.build_temp = os.path.join("build", os.path.basename(self._default_temp()))

    def _default_temp(self) -> str:
        build = self.distribution.get_command_obj("build", create=True)
        return f"temp.{build.plat_name}-{sys.implementation.cache_tag}"

    def run(self) -> None:
        torch = config.check_torch()
        config.check_build_tools(setuptools.__version__)
        compiler = config.check_host_compiler(os.environ)
        cuda = config.plan_cuda(torch, os.environ)
        if cuda.archs:
            from torch.utils import cpp_extension

            os.environ["TORCH_CUDA_ARCH_LIST"] = cuda.archs
            config.check_archs(cuda, torch, cpp_extension._get_cuda_arch_flags)
        skipped = self._configure(torch, cuda)
        for name, why in skipped.items():
            print(config.box(f"fastcam.{name} IS NOT BUILT", why), file=sys.stderr, flush=True)

        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        with open(Path(self.build_temp) / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two builds at once would write the same objects
            super().run()
            if self.only is None:
                self._remove_stale(skipped)
                self._write_build_info(torch, compiler, cuda, skipped)

    def _configure(self, torch: config.TorchInfo, cuda: config.CudaPlan) -> dict[str, str]:
        """Fill in flags; drop what cannot be built and say why."""
        skipped: dict[str, str] = {}
        if cuda.home is None:
            skipped["_C_cuda"] = f"CPU only: {cuda.reason}"
        wanted = self.only.split(",") if self.only else list(config.SOURCES)
        unknown = sorted(set(wanted) - set(config.SOURCES))
        if unknown:
            raise config.BuildError(
                f"--only: unknown library {unknown}; choose from {list(config.SOURCES)}."
            )
        for ext in list(self.extensions):
            name = ext.name.rpartition(".")[2]
            if not ext.sources:
                skipped.setdefault(name, f"no sources match {', '.join(config.SOURCES[name])}.")
            if name in skipped or name not in wanted:
                self.extensions.remove(ext)
                continue
            ext.extra_compile_args = config.compile_flags(name, torch, cuda, os.environ)
            for option, value in config.link_options(name, torch, cuda).items():
                setattr(ext, option, value)
        return {name: why for name, why in skipped.items() if name in wanted}

    def build_extension(self, ext: Extension) -> None:
        # Ninja's file and logs belong to one set of objects and flags: one directory per library.
        temp, self.build_temp = self.build_temp, os.path.join(self.build_temp, ext.name)
        try:
            super().build_extension(ext)
        except RuntimeError as error:
            hint = ""
            if config.enabled(os.environ, "FASTCAM_WERROR"):
                hint = " If it failed on a warning of your compiler, build with FASTCAM_WERROR=0."
            message = f"fastcam: compiling {ext.name} failed (see above).{hint}"
            raise SystemExit(message) from error
        finally:
            self.build_temp = temp

    def copy_file(
        self, infile: str, outfile: str, *args: object, **kwargs: object
    ) -> tuple[str, bool]:
        """Replace a library in one step and only if it changed: a process may have it mapped."""
        if os.path.isdir(outfile):
            outfile = os.path.join(outfile, os.path.basename(infile))
        if os.path.exists(outfile) and filecmp.cmp(infile, outfile, shallow=False):
            return outfile, False
        partial = f"{outfile}.{os.getpid()}.tmp"
        shutil.copy(infile, partial)
        os.replace(partial, outfile)
        return outfile, True

    def _remove_stale(self, skipped: dict[str, str]) -> None:
        """What an earlier build left behind must not pass for a part of this one."""
        folders = [Path(self.build_lib) / "fastcam", *([Path("fastcam")] if self.inplace else [])]
        for library in (p for d in folders for name in skipped for p in d.glob(f"{name}.*so")):
            library.unlink()

    def _write_build_info(
        self, torch: config.TorchInfo, compiler: str, cuda: config.CudaPlan, skipped: dict[str, str]
    ) -> None:
        built = {ext.name.rpartition(".")[2]: ext for ext in self.extensions}
        info = {
            "version": self.distribution.get_version(),
            "libraries": {
                name: self.get_ext_filename(ext.name).rpartition("/")[2]
                for name, ext in built.items()
            },
            "skipped": skipped,
            "torch": torch.version,
            "torch_target": ".".join(map(str, config.MINIMUM_TORCH)),
            "cuda": cuda.version if "_C_cuda" in built else None,
            "cuda_reason": skipped.get("_C_cuda"),
            "arch_list": cuda.archs.replace(" ", ";").split(";")
            if cuda.archs and "_C_cuda" in built
            else [],
            "compiler": compiler,
            "flags": {
                "cxx": [*config.CXX_FLAGS, *config.STABLE_ABI_DEFINES],
                "nvcc": [*config.NVCC_FLAGS, *config.STABLE_ABI_DEFINES, *config.CUDA_DEFINES],
            },
            "python": ".".join(map(str, sys.version_info[:3])),
        }
        package = Path("fastcam") if self.inplace else Path(self.build_lib) / "fastcam"
        path = package / config.BUILD_INFO
        if path.exists():
            old = json.loads(path.read_text())
            old.pop("date", None)
            if old == info:
                return
        info["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(info, indent=2) + "\n")
        os.replace(partial, path)


setup(
    ext_modules=[
        Extension(
            f"fastcam.{name}",
            sources=config.sources(name),
            language="c++",
            py_limited_api=name != "_regions",  # pybind11 uses more than the limited API
        )
        for name in config.SOURCES
    ],
    cmdclass={"build_ext": BuildNative},
)
