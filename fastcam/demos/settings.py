"""What the demos are, in plain values; the command line reads them without importing the demos."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from fastcam.data.choices import Fit
from fastcam.training.config import PULL, SCRATCH, Schedule, of_network


@dataclass(frozen=True)
class DemoConfig:
    """Settings of ``fastcam demo``.

    Attributes:
        images: number of synthetic faces.
        splits: their shares for training, validation and test. Most are for the test: one in
            twenty has ``attribute`` without ``other``, and those are what the demo is about.
        agreement: probability that ``other`` agrees with ``attribute`` in every image; 0.9 is
            about the correlation of lipstick and heavy make-up in CelebA (φ = 0.8).
        attribute, other, region: what is judged, what misleads, and where to look instead.
        model, size, fit, batch_size, lr, clip, epochs: of the training from scratch, on all 40
            attributes: they give the features that guidance can then choose from.
        schedule: of its learning rate.
        pull: how hard guidance draws, see :class:`fastcam.training.GuidanceConfig`. The rest of the
            fine-tuning is as ``fastcam finetune`` does it by default.
        seed: seed of everything; the same seed gives the same result.
    """

    images: int = field(default=7000, metadata={"short": "-n"})
    splits: tuple[float, float, float] = (0.34, 0.03, 0.63)
    agreement: float = 0.9
    attribute: str = "Wearing_Lipstick"
    other: str = "Heavy_Makeup"
    region: str = "mouth"
    model: str = "alexnet"
    size: int = 128
    fit: Fit = "face"
    batch_size: int = SCRATCH["batch_size"]
    lr: float = 0.2
    clip: float = of_network("alexnet")["clip"]
    epochs: int = 8
    schedule: Schedule = SCRATCH["schedule"]
    pull: float = PULL
    seed: int = 0


def _robustness() -> ModuleType:
    from fastcam.analysis import noise_robustness

    return noise_robustness


@dataclass(frozen=True)
class AttentionDemoConfig:
    """Settings of ``fastcam attention demo``.

    Attributes:
        images: number of synthetic faces: 70% training, 15% validation, 15% test.
        size, fit, batch_size, lr, clip, epochs: of the training, with a cosine schedule.
        model_options: of the network; None takes it as it comes.
        shown: attributes whose masks and partners are shown.
        pairs, sigmas: transformations (n, β) and noise levels of the robustness.
        ablation_images, ablation_epochs, ablation_batch_size, ablation_seeds: the four variants are
            trained on so few images, and so often, to fit into the time.
        seed: seed of everything; the same seed gives the same result.
    """

    images: int = field(default=3000, metadata={"short": "-n"})
    size: int = of_network("attention")["size"]
    fit: Fit = "face"
    batch_size: int = SCRATCH["batch_size"]
    lr: float = of_network("attention")["lr"]
    clip: float = of_network("attention")["clip"]
    epochs: int = 6
    model_options: dict[str, Any] | None = None
    shown: tuple[str, ...] = ("Wearing_Lipstick", "Eyeglasses", "Blond_Hair")
    pairs: tuple[tuple[float, float], ...] = field(default_factory=lambda: _robustness().PAIRS)
    sigmas: tuple[float, ...] = field(default_factory=lambda: _robustness().SIGMAS)
    ablation_images: int = 600
    ablation_epochs: int = 3
    ablation_batch_size: int = 16
    ablation_seeds: int = 2
    seed: int = 0
