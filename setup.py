"""Build fastcam's native libraries (flags: build_config.py; the rest: pyproject.toml)."""

from __future__ import annotations

import datetime
import fcntl
import importlib.util
import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parent))

import build_config as config

os.chdir(config.ROOT)
config.check_build_tools(setuptools.__version__)  # before pyproject.toml is read

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


class BuildModules(build_py):
    """As setuptools does it, without the modules that an earlier version left in ``build``."""

    def run(self) -> None:
        for module in Path(self.build_lib, "fastcam").rglob("*.py"):
            if not module.relative_to(self.build_lib).exists():
                module.unlink()
        super().run()


class BuildNative(Base):  # type: ignore[misc, valid-type]
    """Preflight, then one ninja build per library, then ``_build_info.json``."""

    user_options: ClassVar = [*build_ext.user_options, ("only=", None, "libraries, e.g. _C_cuda")]

    def initialize_options(self) -> None:
        super().initialize_options()
        self.only: str | None = None
        # Also for an editable installation (setuptools would take a temporary folder): the next
        # build needs the objects.
        self.build_temp = f"build/temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"

    def run(self) -> None:
        torch = config.check_torch()
        config.check_build_tools(setuptools.__version__, config.absent_tools())
        compiler = config.check_host_compiler(os.environ)
        cuda = config.plan_cuda(torch, os.environ)
        if cuda.archs:
            from torch.utils import cpp_extension

            os.environ["TORCH_CUDA_ARCH_LIST"] = cuda.archs
            config.check_archs(cuda, torch, cpp_extension._get_cuda_arch_flags)
        skipped = self._configure(cuda)
        for name, why in skipped.items():
            print(config.box(f"fastcam.{name} IS NOT BUILT", why), file=sys.stderr, flush=True)

        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        with open(Path(self.build_temp) / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two builds at once would write the same objects
            super().run()
            if self.only is None:
                self._finish(torch, compiler, cuda, skipped)

    def _configure(self, cuda: config.CudaPlan) -> dict[str, str]:
        """Fill in flags; drop what is not asked for or cannot be built, and say why it cannot."""
        wanted = self.only.split(",") if self.only else list(config.SOURCES)
        unknown = sorted(set(wanted) - set(config.SOURCES))
        if unknown:
            raise config.BuildError(
                f"--only: unknown library {unknown}; choose from {list(config.SOURCES)}."
            )
        skipped: dict[str, str] = {}
        for ext in self.extensions:
            name = ext.name.removeprefix("fastcam.")
            if name == "_C_cuda" and cuda.home is None:
                skipped[name] = f"CPU only: {cuda.reason}"
            elif not ext.sources:
                skipped[name] = f"no sources match {', '.join(config.SOURCES[name])}."
            elif name in wanted:
                vars(ext).update(config.extension_options(name, cuda, os.environ))
        self.extensions[:] = [ext for ext in self.extensions if ext.extra_compile_args]
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

    def _finish(
        self, torch: ModuleType, compiler: str, cuda: config.CudaPlan, skipped: dict[str, str]
    ) -> None:
        """Remove what an earlier build left of skipped libraries, and write down this one."""
        package = Path("fastcam") if self.inplace else Path(self.build_lib) / "fastcam"
        for library in [p for name in skipped for p in package.glob(f"{name}.*so")]:
            library.unlink()
        built = [
            self.get_ext_filename(ext.name).removeprefix("fastcam/") for ext in self.extensions
        ]
        cuda = config.CudaPlan() if "_C_cuda" in skipped else cuda
        info = {
            "version": self.distribution.get_version(),
            "libraries": {library.partition(".")[0]: library for library in built},
            "skipped": skipped,
            "torch": torch.__version__,
            "torch_target": ".".join(map(str, config.MINIMUM_TORCH)),
            "cuda": cuda.version,
            "cuda_reason": skipped.get("_C_cuda"),
            "arch_list": cuda.archs.replace(" ", ";").split(";") if cuda.archs else [],
            "compiler": compiler,
        }
        path = package / config.BUILD_INFO
        old = json.loads(path.read_text()) if path.exists() else {}
        if {**info, "date": old.get("date")} != old:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            path.write_text(json.dumps({**info, "date": now}, indent=2) + "\n")


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
    cmdclass={"build_ext": BuildNative, "build_py": BuildModules},
)
