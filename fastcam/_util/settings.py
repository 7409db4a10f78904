"""Settings as dataclasses: which of their fields decide a result."""

from __future__ import annotations

import dataclasses
from typing import Any


def deciding(config: Any) -> dict[str, Any]:
    """A dataclass as a dict, without the fields of which the metadata say ``"result": False``."""
    hidden = {f.name for f in dataclasses.fields(config) if f.metadata.get("result") is False}
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in hidden}
