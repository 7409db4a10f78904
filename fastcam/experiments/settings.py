"""What the experiments are and take, in plain values; the command line reads them without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastcam._util import checks as check
from fastcam._util.settings import deciding
from fastcam.data.choices import Fit
from fastcam.demos.settings import DemoConfig
from fastcam.training.config import Schedule


@dataclass(frozen=True)
class Pair:
    """Two attributes that occur together, and where the first should be read.

    Attributes:
        attribute, other: a, which is judged, and b, which misleads.
        region: of a, as :meth:`fastcam.regions.Region.parse` reads it.
        elsewhere: where b is read: hidden in half of the training images by the cut-out.
        w_g: the weight of the Grad-CAM loss in Yang et al., section 3.1.
        quoted: their Table 1: network -> (test, E1, E2) in percent.
    """

    attribute: str
    other: str
    region: str
    elsewhere: str
    w_g: float
    quoted: Mapping[str, tuple[float, float, float]] = field(hash=False)

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return f"{self.attribute}-{self.other}".lower()


_EYES = "left_eyebrow,right_eyebrow,left_eye,right_eye"
LIPSTICK = Pair(
    "Wearing_Lipstick", "Heavy_Makeup", "mouth", _EYES, 5.0,
    {
        "pre-trained": (92.90, 98.06, 82.17),
        "center": (93.26, 98.29, 83.23),
        "iou": (93.25, 98.31, 83.31),
    },
)  # fmt: skip
CHEEKBONES = Pair(
    "High_Cheekbones", "Smiling", "left_cheek,right_cheek", "mouth", 4.0,
    {"pre-trained": (63.53, 70.22, 47.41), "iou": (65.56, 71.42, 61.33)},
)  # fmt: skip
DOUBLE_CHIN = Pair(
    "Double_Chin", "Chubby", "chin", "left_cheek,right_cheek", 3.0,
    {"pre-trained": (84.18, 90.92, 81.77), "iou": (84.79, 94.32, 86.45)},
)  # fmt: skip
PAIRS = (LIPSTICK, CHEEKBONES, DOUBLE_CHIN)


@dataclass(frozen=True)
class ExperimentConfig:
    """Settings of ``fastcam experiment``.

    Attributes:
        data: folder of images with labels; None draws faces, other ones for each seed, on which
            each pair of attributes agrees in nine of ten.
        seeds: how many trainings of everything, with seeds 0, 1, …; one shows no spread.
        pairs: how many of the three pairs of Yang et al., Table 1.
        attribute: table1, figure7, bias: in place of these pairs one of your own data, with
            ``other``, ``region`` and ``elsewhere``: the attribute that is judged. ``bias`` takes
            data in CelebA's layout.
        other: the attribute that misleads.
        region: where the attribute should be read.
        elsewhere: where the other one is read; hidden to see what that costs the score.
        images: how many faces are drawn.
        splits: their shares for training, validation and test; few attributes part in few images,
            so that most are for the test.
        model: the network, see :mod:`fastcam.models.registry`.
        size: input size in pixels.
        fit: how images become squares, see :class:`fastcam.data.FitSquare`.
        epochs, lr, batch_size, schedule: of the networks that are fine-tuned, from scratch on all
            attributes.
        limit_train, limit_valid, limit_test: only so many images of the data, in every
            training and its validation, and in the test.
        precision: ``"float32"`` or ``"bfloat16"``.
        reliance_images: test images on which regions are hidden.
        altered_images: test images of which the region alone is shown, and on which sunglasses are
            drawn.
        brief: fewer networks where an experiment has many of one kind.
        device: where to compute.
    """

    data: str | None = None
    seeds: int = 1
    pairs: int = 3
    attribute: str | None = None
    other: str | None = None
    region: str | None = None
    elsewhere: str | None = None
    images: int = field(default=3400, metadata={"short": "-n"})
    splits: tuple[float, float, float] = (0.38, 0.04, 0.58)
    model: str = DemoConfig.model
    size: int = DemoConfig.size
    fit: Fit = DemoConfig.fit
    epochs: int = DemoConfig.epochs
    lr: float = DemoConfig.lr
    batch_size: int = DemoConfig.batch_size
    schedule: Schedule = DemoConfig.schedule
    limit_train: int | None = None
    limit_valid: int | None = None
    limit_test: int | None = None
    precision: str = "float32"
    reliance_images: int = 300
    altered_images: int = 600
    brief: bool = False
    device: str = field(default="auto", metadata={"result": False})

    def __post_init__(self) -> None:
        least = {"seeds": 1, "images": 100, "epochs": 1, "reliance_images": 2, "altered_images": 1}
        for name, n in least.items():
            check.at_least(name, getattr(self, name), n)
        check.number("pairs", self.pairs, "from 1 to 3", lambda n: n in (1, 2, 3))
        check.number("lr", self.lr, "above 0", lambda x: 0 < x < math.inf)
        own = (self.attribute, self.other, self.region, self.elsewhere)
        if any(own) and not (all(own) and self.data):
            raise ValueError(
                "attribute, other, region, elsewhere: a pair of your own takes all four, and data"
            )

    @property
    def chosen(self) -> tuple[Pair, ...]:
        """The pairs: yours, or those of Yang et al."""
        if self.attribute and self.other and self.region and self.elsewhere:
            return (Pair(self.attribute, self.other, self.region, self.elsewhere, 5.0, {}),)
        return PAIRS[: self.pairs]

    def quick(self) -> ExperimentConfig:
        """The same, small: to see that all works, and how the tables will look, in minutes."""
        return replace(
            self, seeds=1, pairs=1, images=1000, splits=(0.6, 0.1, 0.3), size=96, epochs=4,
            limit_train=600, limit_test=300, reliance_images=100, altered_images=100, brief=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """An experiment as `fastcam experiment list` shows it.

    Attributes:
        title: what it is, in a line.
        shows: what one learns from it.
        takes: minutes of the clock, as measured: two cores of an AMD EPYC, the defaults,
            ``--jobs 2``; empty where that was not measured.
    """

    title: str
    shows: str
    takes: str = ""


#: What analyses of the attention network take: the first that is asked for trains it.
_OF_ONE = "5, or 1 after another"

CATALOGUE: dict[str, Entry] = {
    "table1": Entry(
        "Yang et al., Table 1, with controls",
        "accuracy where two attributes part, and what the network looks at and relies on, for every"
        " way to direct it",
        "33",
    ),
    "figure6": Entry(
        "Yang et al., Figure 6",
        "where four networks look for lipstick, on ten faces",
        "1 after table1",
    ),
    "figure7": Entry(
        "Yang et al., Figure 7",
        "faces of E1 and E2 before and after, for the three pairs",
        "1 after table1",
    ),
    "bias": Entry(
        "training on agreeing images alone",
        "guidance and cut-out against GroupDRO and last-layer re-training, and what pull buys",
        "34 a pair",
    ),
    "backbones": Entry(
        "Yang et al., future work",
        "AlexNet, VGG-16, ResNet-18 and -50; the mouth by landmarks, as drawn on the template face,"
        " and as one rectangle for all images",
        "80 for VGG-16, 39 for ResNet-50",
    ),
    "decoy": Entry(
        "corners that tell the class in training, after Ross et al.",
        "which losses keep a network from a shortcut; on Fashion-MNIST (Debian's package"
        " dataset-fashion-mnist) or scikit-learn's digits",
        "1",
    ),
    "mask-table1": Entry(
        "Kimura & Tanaka, Table 1",
        "what reconstructor and multi-label classifier are good for",
        "25",
    ),
    "mask-table2": Entry("Kimura & Tanaka, Table 2", "channels that go together", _OF_ONE),
    "mask-table3": Entry("Kimura & Tanaka, Table 3", "attributes that go together", _OF_ONE),
    "mask-table4": Entry("Kimura & Tanaka, Table 4", "every attribute's accuracy", _OF_ONE),
    "mask-figure3": Entry(
        "Kimura & Tanaka, Figure 3", "the tone curve that transforms masks", "0.1"
    ),
    "mask-figure4": Entry("Kimura & Tanaka, Figure 4", "the masks that matter most", _OF_ONE),
    "mask-figure5": Entry(
        "Kimura & Tanaka, Figure 5", "accuracy against noise, the masks transformed", _OF_ONE
    ),
}


#: What makes an experiment larger and leaves every network in it as it is.
EXTENT = ("seeds", "pairs")
#: What names a pair of one's own; missing among the settings of a run without one.
OWN_PAIR = ("attribute", "other", "region", "elsewhere")


def settings_of(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that decide the results, as JSON values."""
    values = deciding(config)
    if config.attribute is None:  # as runs without a pair of their own have said it
        for name in OWN_PAIR:
            del values[name]
    return {**values, "splits": list(config.splits)}
