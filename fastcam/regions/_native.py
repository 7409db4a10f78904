"""The compiled geometry (``csrc/regions``), imported with an error that says how to build it."""

from __future__ import annotations

try:
    from fastcam import _host as host
except ImportError as error:
    raise ImportError(
        "fastcam.regions needs the native module fastcam._host, which could not be loaded "
        f"({error}); build it with: pip install --no-build-isolation ."
    ) from error

__all__ = ["host"]
