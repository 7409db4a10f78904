"""What the studio's tests share: a tiny subject, and a browser where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_server import CHROMIUM, FLAGS, Served
from tiny_studio import write_subject


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data folder and checkpoint."""
    return write_subject(tmp_path_factory.mktemp("subject"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium; without it the tests are skipped, and say so."""
    playwright = pytest.importorskip(
        "playwright.sync_api",
        reason="THE STUDIO'S PAGES ARE NOT TESTED: playwright is missing (requirements/dev.txt)",
    )
    if not Path(CHROMIUM).exists():
        pytest.skip(
            "THE STUDIO'S PAGES ARE NOT TESTED: apt-get install chromium (Debian's, "
            f"{CHROMIUM}) makes that possible"
        )
    with playwright.sync_playwright() as p:
        launched = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts studios, which end with the test."""
    started: list[Served] = []

    def start(*words: object, name: str = "studio") -> Served:
        served = Served(tmp_path / name, *words)
        started.append(served)
        return served.start()

    yield start
    for served in started:
        served.stop()
