"""The speed targets, each a ratio of two candidates of one interleaved run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report import markdown, met

Record = Mapping[str, Any]  # what bench/suite measured of one case


def slower(over: str, under: str) -> Callable[[Record], float]:
    """Median of ``over`` divided by median of ``under``."""
    return lambda record: record["times"][over]["median"] / record["times"][under]["median"]


def fastest_peer(record: Record) -> str:
    if not record["peers"]:
        raise KeyError("no peer is installed")
    return min(record["peers"], key=lambda name: record["times"][name]["median"])


def memory_share(record: Record) -> float:
    return record["peaks"]["fused"][0] / record["peaks"]["eager"][0]


@dataclass(frozen=True)
class Target:
    number: int
    case: str  # name of the record
    what: str
    measure: Callable[[Record], float]
    bound: float
    at_most: bool = False

    def value(self, records: Sequence[Record]) -> float | None:
        """None if the case was not measured, or not against what the target names."""
        for record in records:
            if record["name"] == self.case:
                try:
                    return self.measure(record)
                except KeyError:
                    return None
        return None

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        beyond = value / self.bound - 1
        fits = beyond <= 0 if self.at_most else beyond >= 0
        off = (
            "" if fits else f": {100 * abs(beyond):.1f}% too {'much' if self.at_most else 'little'}"
        )
        return f"{met(fits)}{off}"


CAM = "cam_iou alexnet N=256 T=1 float32 contiguous, D of A's size"
ATTEND = "attend pooled attention N=8 K=40 float32"
EXACT = "guided step / step with BCE alone, AlexNet, batch {}, exact"
DROPOUT = 'the same, `head="mean_dropout"`'
TARGETS = (
    Target(1, CAM, "`cam_iou` 256×256×13×13: eager / fused", slower("eager", "fused"), 3),
    Target(1, CAM, "`torch.compile` / fused", slower("compiled", "fused"), 2),
    Target(1, CAM, "fused / moving its bytes", slower("fused", "byte limit"), 1.5, at_most=True),
    Target(
        2, ATTEND, "`attend(pool=True)` 8×40×128×14×14: eager / fused", slower("eager", "fused"), 10
    ),
    Target(2, ATTEND, "`torch.compile` / fused", slower("compiled", "fused"), 2),
    Target(2, ATTEND, "peak memory, fused / eager", memory_share, 0.05, at_most=True),
    *(
        Target(3, f"step alexnet N={batch}", what, slower(name, "BCE alone"), bound, at_most=True)
        for batch in (64, 128)
        for name, what, bound in (
            ("exact", EXACT.format(batch), 1.12),
            ("mean dropout", DROPOUT, 1.07),
        )
    ),
    Target(
        4,
        "maps of 40 attributes",
        "Grad-CAM of 40 attributes: fastest peer / fused",
        lambda record: slower(fastest_peer(record), "fused")(record),
        4,
    ),
    Target(
        4,
        "maps of one attribute",
        "Grad-CAM of one attribute: fused / fastest peer",
        lambda record: slower("fused", fastest_peer(record))(record),
        1.05,
        at_most=True,
    ),
    Target(
        5,
        "eight (n, beta) of attend pooled",
        "eight (n, β): eight calls / one call",
        slower("eight calls", "one call"),
        4,
    ),
)


def targets_table(records: Sequence[Record]) -> str:
    rows = []
    for target in TARGETS:
        value = target.value(records)
        rows.append(
            [
                str(target.number),
                target.what,
                f"{'≤' if target.at_most else '≥'} {target.bound:.4g}",
                "" if value is None else f"{value:.4g}",
                target.verdict(value),
            ]
        )
    return markdown(("", "forward + backward, medians", "target", "measured", ""), rows)
