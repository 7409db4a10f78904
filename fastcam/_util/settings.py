"""Settings: which fields of a dataclass decide a result, and which differ from stored ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any


def deciding(config: Any) -> dict[str, Any]:
    """A dataclass as a dict, without the fields of which the metadata say ``"result": False``."""
    hidden = {f.name for f in dataclasses.fields(config) if f.metadata.get("result") is False}
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in hidden}


def differing(
    stored: Mapping[str, Any], settings: Mapping[str, Any], optional: Collection[str] = ()
) -> set[str]:
    """Names of the settings that are not the same in both; one that is missing counts as None.

    Args:
        stored, settings: JSON values.
        optional: names that count only where both have them: what earlier versions did not note,
            and what cannot be told any more, has not changed.
    """
    ignored = {k for k in optional if k not in stored or k not in settings}
    names = {*stored, *settings} - ignored
    return {k for k in names if stored.get(k) != settings.get(k)}
