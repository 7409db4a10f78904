"""The Grad-CAM terms of the training loss: targets, cell weights, weighting, sharpness schedule."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastcam.cam.head_autograd import twice_differentiable
from fastcam.data.batches import on_grid
from fastcam.data.choices import OWN_CLASS
from fastcam.data.labelled import attribute_index
from fastcam.evaluation.classes import own_targets
from fastcam.functional import margins
from fastcam.losses.balance import Balance
from fastcam.losses.cam import CAM_LOSSES
from fastcam.losses.reduce import Reducer
from fastcam.models import ModelSpec, spec_at
from fastcam.ops.cam_loss import LOSSES
from fastcam.training.config import GuidanceConfig
from fastcam.training.objective import (
    AttributeLoss,
    LabelLoss,
    Part,
    attribute_loss,
    multilabel_loss,
)


def cell_weights(regions: Tensor, region_weight: float) -> Tensor:
    """Weights [N, T, h, w]: ``region_weight`` where the region covers, 1 outside (Yang et al.)."""
    return 1 + (region_weight - 1) * regions


def guided_pairs(labels: Tensor, guide: str) -> Tensor:
    """Which (image, target) pairs are guided: bool [N, T] from the targets' ``labels`` [N, T]."""
    return labels > 0.5 if guide == "positives" else torch.ones_like(labels, dtype=torch.bool)


def score_signs(labels: Tensor, guide: str) -> Tensor | None:
    """+1 where the map of the score is guided, −1 for the negated score's: [N, T], None for +1."""
    return torch.where(labels > 0.5, 1.0, -1.0) if guide == "true_class" else None


def warm_sharpness(sharpness: float, progress: float) -> float:
    """Sharpness after a share ``progress`` of the run: linear from 1 to ``sharpness``."""
    return 1 + (sharpness - 1) * min(max(progress, 0.0), 1.0)


@dataclass
class GuidanceTerm:
    """One batch's Grad-CAM losses and their measures, as tensors on the device.

    total: scalar, label loss and guidance as they are to be minimised.
    losses: by name, scalar, a Grad-CAM loss, mean over valid pairs, detached.
    dead: scalar, the share of the valid pairs' maps that are zero everywhere; like the losses, of
        several processes its mean over them is that of one.
    ratios: by name, scalar, what balances the gradients of labels and that loss
        (:class:`fastcam.Balance`).
    """

    total: Tensor
    losses: dict[str, Tensor]
    dead: Tensor
    ratios: dict[str, Tensor]

    def record(self) -> dict[str, Tensor]:
        """As a history has it: ``loss_g`` and ``ratio`` are those of the first loss, the others'
        names have the loss behind (``loss_g_energy``)."""
        found = {"dead": self.dead}
        for number, (name, loss) in enumerate(self.losses.items()):
            of = f"_{name}" if number else ""
            found |= {f"loss_g{of}": loss, f"ratio{of}": self.ratios[name]}
        return found


# A fixed weight whose gradient on the guided layer is more than this many times the labels'.
HEAVY = 10.0


def _criterion(name: str, config: GuidanceConfig) -> Any:
    """A loss of the map with the settings that concern it: those of its options' names."""
    kinds: dict[Any, Any] = {**CAM_LOSSES}
    _, own = {**LOSSES}[name]  # type: ignore[index]
    settings = {option: getattr(config, option) for option in own if hasattr(config, option)}
    if "sharpness" in settings and config.sharpness_warmup:
        settings["sharpness"] = 1.0
    return kinds[name](
        weight_grad=config.weight_grad,
        head=config.head,
        max_pair_pull=config.max_pair_pull or None,
        **settings,
    )


class Guidance(nn.Module):
    """Computes the attribute loss and the Grad-CAM losses in one forward pass.

    Args:
        config: where to look.
        model, spec: the network and its own Grad-CAM layer; ``config.target_layer`` goes before it.
        attributes: names of the logits.
        loss: of the labels.
        exclusive: whether the attributes are classes, of which an image has one: the maps are then
            those of the :func:`fastcam.functional.margins`.

    Raises:
        ValueError: an attribute or a layer that the model does not have, or a ``weight_grad`` that
            it cannot have.
    """

    def __init__(
        self,
        config: GuidanceConfig,
        model: nn.Module,
        spec: ModelSpec,
        attributes: list[str],
        loss: LabelLoss = multilabel_loss,
        exclusive: bool = False,
    ) -> None:
        super().__init__()
        if config.weight_grad not in spec.weight_grads:
            allowed = " or ".join(repr(w) for w in spec.weight_grads)
            raise ValueError(
                f"weight_grad: expected {allowed} for this model, whose head cannot be"
                f" differentiated twice, got {config.weight_grad!r}"
            )
        self.config = config
        self._loss, self._exclusive = loss, exclusive
        names = [*attributes, *([OWN_CLASS] if exclusive else [])]
        indices = [attribute_index(names, a, "the classifier judges") for a, _ in config.targets]
        self._own = len(attributes) in indices
        self.targets: Tensor
        self.register_buffer("targets", torch.tensor(indices), persistent=False)
        spec = spec_at(model, spec, config.target_layer or spec.target_layer)
        self.tap = spec.tap(model)
        pulls = config.pulls
        self.balance = Balance(list(pulls.values()))
        self._warned = False
        self.criteria = nn.ModuleDict({name: _criterion(name, config) for name in pulls})

    @property
    def sharpness(self) -> float | None:
        """That of the IoU loss now; None where it takes no part."""
        return self.criteria["iou"].sharpness if "iou" in self.criteria else None  # type: ignore[return-value]

    def set_progress(self, progress: float) -> None:
        """Tell how much of the run is done (0 to 1), for the sharpness warm-up."""
        if self.config.sharpness_warmup and "iou" in self.criteria:
            iou: Any = self.criteria["iou"]
            iou.sharpness = warm_sharpness(self.config.sharpness, progress)

    def _targets(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The targets, and the labels [N, T] of each."""
        targets = self.targets.to(labels.device)
        if self._own:
            targets = own_targets(targets, labels)
        return targets, labels.gather(1, targets) if self._own else labels[:, targets]

    def pairs(self, labels: Tensor, regions: Tensor) -> dict[str, Tensor]:
        """How many pairs each loss counts in a batch, by its name: scalars on the device."""
        _, chosen = self._targets(labels)
        regions = on_grid(regions, regions.shape[-2:])
        weights = cell_weights(regions, self.config.region_weight)
        where = guided_pairs(chosen, self.config.guide)
        criteria: dict[str, Any] = dict(self.criteria.items())
        return {n: c.valid_pairs(regions, weights, where).sum() for n, c in criteria.items()}

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        regions: Tensor,
        w_a: float = 1.0,
        part: Part | None = None,
    ) -> tuple[AttributeLoss, GuidanceTerm]:
        """Both losses, from normalised ``images`` and ``regions`` [N, T, h, w] of any size.

        Args:
            w_a: weight of the attribute loss in the total.
            part: of a batch in parts, which one this is. ``balance`` is then to be updated between
                the forwards that are ahead of a measurement and the others.
        """
        targets, chosen = self._targets(labels)
        guide, full = self.config.guide, self.config.weight_grad == "full"
        pairs = {} if part is None else part.pairs
        criteria: dict[str, Any] = dict(self.criteria.items())
        with self.tap as tap, twice_differentiable() if full else nullcontext():
            attributes = attribute_loss(self.tap.model, images, labels, self._loss, part)
            scores = margins(attributes.logits) if self._exclusive else attributes.logits
            regions = on_grid(regions, tap.activations.shape[-2:])
            losses = {
                name: criterion(
                    scores,
                    tap,
                    regions,
                    targets=targets,
                    cell_weights=cell_weights(regions, self.config.region_weight),
                    where=guided_pairs(chosen, guide),
                    signs=score_signs(chosen, guide),
                    normalizer=pairs.get(name),
                )
                for name, criterion in criteria.items()
            }
            terms = [(loss, tap) for loss in losses.values()]
            labelled = w_a * attributes.loss
            if part is None:
                total = self.balance(labelled, terms)
            else:
                total = self.balance.weighed(labelled, terms)
                if part.ahead:
                    self.balance.gather(labelled, terms)
        if self.config.w_g is not None:
            total = total + self.config.w_g * terms[0][0]
        name, first = next(iter(criteria.items()))
        valid, dead = first.stats.counts  # the same pairs and maps in all
        reducer = Reducer("mean", "global", None)
        ratios = self.balance.ratio.reshape(-1).to(total.device)
        return attributes, GuidanceTerm(
            total,
            {name: loss.detach() for name, loss in losses.items()},
            reducer.mean(dead.float(), valid, reducer.world(first, self.tap), pairs.get(name)),
            dict(zip(losses, ratios, strict=True)),
        )

    def examine(self, ratio: float) -> None:
        """Warn once of a fixed weight that is too heavy.

        Args:
            ratio: that of a step's :class:`GuidanceTerm`, read from the device.
        """
        w_g = self.config.w_g
        if w_g is not None and not self._warned and ratio > 0 and w_g > HEAVY * ratio:
            self._warned = True
            warnings.warn(
                f"w_g {w_g:g}: the Grad-CAM loss draws {w_g / ratio:.0f} times as hard on the "
                "guided layer as the labels do, and accuracy is at risk; use pull (1 is as hard), "
                f"or w_g up to {2 * ratio:.2g}",
                stacklevel=2,
            )
