"""The compiled geometry (``csrc/regions``), imported with an error that says how to build it."""

from __future__ import annotations

try:
    from fastcam import _regions as native
except ImportError as error:
    raise ImportError(
        "fastcam.regions needs the native module fastcam._regions, which could not be loaded "
        f"({error}); build it with: pip install --no-build-isolation ."
    ) from error

__all__ = ["native"]
