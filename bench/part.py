"""A part of bench/suite in this process: ``python -m bench.part RECORDS PYTEST-ARGUMENT …``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.suite.conftest import RECORDS
from fastcam._util.files import write_text


class _Kept:
    """What the suite measured; after Ctrl-C, what it had measured until then."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        self.records = config.stash.get(RECORDS, [])


def main(records: Path, arguments: list[str]) -> int:
    kept = _Kept()
    failed = pytest.main(arguments, plugins=[kept])
    write_text(records, json.dumps(kept.records))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2:]))
