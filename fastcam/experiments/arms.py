"""Ways to fine-tune a network: what differs from the defaults of ``fastcam finetune``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastcam.experiments.settings import Pair
from fastcam.training.config import AUTO, OUTSIDE

#: What a pair's networks are compared with.
CONTROL = "control"
BEFORE = "pre-trained"
#: The share of images that a cut-out of what misleads, or the mixed set N_w, hides a region of.
HALF = 0.5
#: No map loss, and no bias that is re-fit to all validation images, which would hide what the
#: training has made of the threshold.
UNGUIDED: Mapping[str, Any] = {"pull": 0.0, "recalibrate": False}


@dataclass(frozen=True)
class Arm:
    """One way to fine-tune.

    Attributes:
        name: stands in tables.
        guidance, train: settings of :class:`fastcam.training.GuidanceConfig` and
            :class:`fastcam.training.TrainConfig` that differ from the defaults. Nothing is hidden
            unless ``train`` says so: a loss is measured alone.
        note: what it is, where the name does not say it; stands beside the numbers in the JSON.
    """

    name: str
    guidance: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return "".join(c if c.isalnum() or c in ".-+" else "_" for c in self.name)


def guided(loss: str, name: str = "", *, pull: float = 1.0, note: str = "", **train: Any) -> Arm:
    """One loss of the map under Balance, named after it."""
    return Arm(name or loss, {"losses": (loss,), "pull": pull}, train, note)


def recommended() -> Arm:
    """``fastcam finetune`` as it comes."""
    return Arm("recommended", {}, {"without": AUTO}, "the defaults of fastcam finetune")


def as_trained(arm: Arm) -> Arm:
    """The same, its bias not re-fit."""
    return replace(arm, guidance={**arm.guidance, "recalibrate": False})


def control() -> Arm:
    return Arm(CONTROL, {"pull": 0.0}, note="the same fine-tuning without guidance")


def cut_out(pair: Pair) -> Arm:
    return Arm(
        "cut-out", {"pull": 0.0}, {"without": pair.elsewhere, "hide_share": HALF},
        f"{pair.elsewhere} hidden in half of the training images, no map loss",
    )  # fmt: skip


def both(pair: Pair, loss: str) -> Arm:
    """A loss of the map beside the cut-out."""
    return guided(
        loss, f"{loss} + cut-out", note="both, balanced", without=pair.elsewhere, hide_share=HALF
    )


def mouth_only() -> Arm:
    """N_o: trained on images of the region alone."""
    return Arm(
        "N_o", UNGUIDED, {"without": OUTSIDE, "hide_share": 1.0},
        "all but the region hidden in every training image; bias not re-fit",
    )  # fmt: skip


def mixed_in() -> Arm:
    """N_w: images of the region alone mixed with the others."""
    return Arm(
        "N_w", UNGUIDED, {"without": OUTSIDE, "hide_share": HALF},
        "all but the region hidden in half of them; bias not re-fit",
    )  # fmt: skip


def table1_arms(pair: Pair) -> list[Arm]:
    """The rows of Table 1, each fine-tuned from the same network; the control first."""
    return [
        control(),
        guided("center", note="balanced"),
        guided("iou", note="balanced"),
        Arm(
            f"iou, w_g {pair.w_g:g}", {"w_g": pair.w_g, "recalibrate": False}, {"clip": 0.0},
            "(w_a, w_g) as printed in Yang et al., gradient not clipped, bias not re-fit",
        ),
        guided("energy", note="balanced"),
        recommended(),
        mouth_only(),
        mixed_in(),
    ]  # fmt: skip
