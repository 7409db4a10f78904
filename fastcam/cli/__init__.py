"""The command line: one module a group of verbs, each verb one call into the library."""

from __future__ import annotations

from fastcam.cli.program import app, main

__all__ = ["app", "main"]
