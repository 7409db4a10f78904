"""How a network is directed: the recommended way, or loss and pull in words with the numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastcam.losses.cam import CAM_LOSSES
from fastcam.training import GuidanceConfig, TrainConfig
from fastcam.training.config import FINETUNE, LOSSES, PULL

#: How hard guidance draws, in words. docs/choosing.md: half is at the least risk, and above 2 the
#: labels are outvoted.
PULLS = {"gentle": 0.5 * PULL, "firm": PULL, "strong": 2.0 * PULL}
#: What each loss of the map asks for, in words.
LOSS_WORDS = {
    "energy": "as much of the map's energy as possible inside",
    "iou": "the attended set is the region (Yang et al.)",
    "center": "the map's centre is the region's centre",
    "l1": "the map is the region, cell by cell",
    "ppce": "each cell inside is attended",
    "outside": "nothing outside is attended",
}


@dataclass(frozen=True)
class Recipe:
    """A fine-tuning as a person asks for it.

    Attributes:
        attribute: that is to be judged from the region.
        region: where to look, as ``fastcam finetune --region`` reads it.
        other: attribute that misleads, for the judging; or None.
        avoid: regions that are hidden in a share of the training images; empty: all but the region,
            as ``fastcam finetune`` does by default.
        loss: of the map.
        pull: how hard it draws, relative to the labels.
        epochs: passes over the training images.
        seed: of batches, augmentation and dropout.
        limit: only so many training images, None for all.
    """

    attribute: str
    region: str
    other: str | None = None
    avoid: str = ""
    loss: str = LOSSES[0]
    pull: float = PULL
    epochs: int = FINETUNE["epochs"]
    seed: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.loss not in CAM_LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(CAM_LOSSES)}, got {self.loss!r}")
        if not self.pull > 0:
            raise ValueError(f"pull: expected a number above 0, got {self.pull}")

    @property
    def recommended(self) -> bool:
        """Whether loss, pull and passes are the defaults of ``fastcam finetune``."""
        plain = (LOSSES[0], PULL, FINETUNE["epochs"], "")
        return (self.loss, self.pull, self.epochs, self.avoid) == plain

    @property
    def words(self) -> str:
        """Attribute and region, in a few words."""
        where = self.region if len(self.region) <= 40 else "the drawn region"
        return f"{self.attribute} from {where}"

    def config(
        self, start: str | Path, data: str | Path, *, control: bool = False, **machine: Any
    ) -> TrainConfig:
        """The run; as a control the same without guidance, which then hides nothing.

        Args:
            start: checkpoint to start from.
            data: folder of images with labels.
            machine: settings that do not decide the result, such as ``device`` and ``workers``.

        Raises:
            ValueError: what is avoided covers the region, or a value is out of range.
        """
        losses = () if self.loss == LOSSES[0] else (self.loss,)
        guidance = GuidanceConfig(
            targets=((self.attribute, self.region),),
            losses=losses,
            pull=0.0 if control else self.pull,
        )
        hidden = {"without": self.avoid} if self.avoid and not control else {}
        return TrainConfig.finetune(
            start, data, guidance, epochs=self.epochs, seed=self.seed, limit_train=self.limit,
            **hidden, **machine,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Recipe:
        """The reverse of :meth:`to_json`."""
        return cls(**values)
