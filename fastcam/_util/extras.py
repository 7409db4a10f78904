"""Optional dependencies: imported where needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or say which extra of fastcam brings it.

    Args:
        module: dotted name of the module, for example ``"matplotlib.pyplot"``.
        extra: name of the extra that installs it, for example ``"train"``.

    Raises:
        ImportError: the package is not installed; the message holds the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there and misses something of its own: not ours to explain
        raise ImportError(
            f"this part of fastcam needs {package!r}; install it with: "
            f"pip install 'fastcam[{extra}]'"
        ) from error
