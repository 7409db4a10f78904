"""``side_by_side``: candidates, checked against each other, then timed in turns.

pytest-benchmark times the first candidate; the others take their turns in the set-up that it runs,
untimed, before each of its rounds, and their timings go into ``extra_info``. So all samples of a
case come from one interleaved run, and pytest-benchmark's own statistics are those of the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pytest
import torch

from bench.timing import Timing, Turns

SideBySide = Callable[..., dict[str, Timing]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=2)
    parser.addoption("--scale", type=float, default=1.0, help="of the time spent on each case")
    parser.addoption(
        "--progress", default="", help="NUMBER/TOTAL/TIME: cases so far, in all, and the start"
    )


class Progress:
    """A line for each case: number, time since the start, and the ratios when it is done."""

    def __init__(self, number: int, total: int, began: float) -> None:
        self.number, self.total, self.began = number, total, began

    def start(self, what: str) -> None:
        self.number += 1
        minutes, seconds = divmod(int(time.time() - self.began), 60)
        head = f"[{self.number:>2}/{self.total} {minutes}:{seconds:02}]"
        print(f"{head} {what} ...", end=" ", flush=True)

    def done(self, times: Mapping[str, Timing]) -> None:
        first, *others = times
        ratios = ", ".join(
            f"{name} {times[name].median / times[first].median:.2f}x" for name in others
        )
        print(f"{first} {1e3 * times[first].median:.4g} ms; {ratios}", flush=True)


PROGRESS = pytest.StashKey[Progress]()
RECORDS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    said = session.config.getoption("--progress").split("/")
    number, total, began = said if len(said) == 3 else (0, len(session.items), time.time())
    session.config.stash[PROGRESS] = Progress(int(number), int(total), float(began))


def pytest_report_teststatus(
    report: pytest.TestReport, config: pytest.Config
) -> tuple[str, str, str] | None:
    """No letter for a passed case: it has its line."""
    if not report.passed:
        return None
    return ("passed" if report.when == "call" else "", "", "")


@pytest.fixture(autouse=True)
def _same_for_all(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.set_num_threads(request.config.getoption("--threads"))
    torch.manual_seed(0)
    request.config.stash[PROGRESS].start(request.node.name)
    yield
    torch._dynamo.reset()  # the guards of former cases would cost the small ones time


@pytest.fixture
def side_by_side(benchmark: Any, request: pytest.FixtureRequest) -> SideBySide:
    def measure(
        name: str,
        candidates: Mapping[str, Callable[[], Any]],
        *,
        seconds: float = 0.0,
        least: int = 7,
        most: int = 200,
        **facts: Any,
    ) -> dict[str, Timing]:
        """Time the candidates, each of which ran before, in ``least`` rounds or for ``seconds``.

        ``facts`` go into the record.
        """
        first, *others = candidates
        rest = Turns({other: candidates[other] for other in others})
        rounds = least
        if seconds > 0:
            start = time.perf_counter()
            candidates[first]()
            rest.turn()
            rest.forget()  # it was the warm-up
            taken = (time.perf_counter() - start) / request.config.getoption("--scale")
            rounds = min(most, max(least, int(seconds / taken)))
        try:
            benchmark.pedantic(candidates[first], setup=rest.turn, rounds=rounds)
        except BaseException:
            benchmark.has_error = True  # it could not save a benchmark that Ctrl-C left empty
            raise
        samples = {first: list(benchmark.stats.stats.data), **rest.seconds}
        times = {key: Timing.of(seconds_of) for key, seconds_of in samples.items()}
        benchmark.extra_info.update(
            facts,
            name=name,
            times={candidate: asdict(timing) for candidate, timing in times.items()},
        )
        request.config.stash.setdefault(RECORDS, []).append(benchmark.extra_info)
        request.config.stash[PROGRESS].done(times)
        return times

    return measure
