"""Every module can be imported: many are imported by a function, when it is called."""

from __future__ import annotations

import importlib
import pkgutil

import fastcam


def test_every_module_can_be_imported() -> None:
    names = [module.name for module in pkgutil.walk_packages(fastcam.__path__, "fastcam.")]
    python = [n for n in names if not n.startswith("fastcam._C") and not n.endswith("__main__")]
    assert "fastcam.training.resume" in python
    for name in python:
        importlib.import_module(name)
