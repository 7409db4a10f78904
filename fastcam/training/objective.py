"""The loss of the labels: of attributes, of classes, the model's own, or yours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from fastcam.losses.reduce import Reducer

#: From logits [N, K] and labels [N, K] of 0 and 1 to a scalar, a mean over the images. One that is
#: reduced over processes by itself has an attribute ``sync``, as the losses of the map have.
LabelLoss = Callable[[Tensor, Tensor], Tensor]


def multilabel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy, mean over images and attributes: each is judged by itself."""
    return nnf.binary_cross_entropy_with_logits(logits, labels)


def multiclass_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the softmax, mean over images: each has one of the classes."""
    return nnf.cross_entropy(logits, labels.argmax(1))


@dataclass
class AttributeLoss:
    """One batch's logits and loss.

    logits: [N, K]. loss: scalar. parts: scalars without a graph, by name, where the loss has parts.
    """

    logits: Tensor
    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What makes the losses of a part of a step's batch the parts of those of the whole.

    share: what the mean of the label loss over the part's images counts in that over the images of
    the whole step, of all processes, times how many these are; a number or a scalar. pairs: by loss
    of the map, scalar, the pairs that it counts in the whole step. loss: the label loss in place of
    the run's own. ahead: whether this forward is for a measurement alone
    (:meth:`fastcam.Balance.gather`), ahead of the one that is backpropagated.
    """

    share: float | Tensor
    pairs: Mapping[str, Tensor] = field(default_factory=dict)
    loss: LabelLoss | None = None
    ahead: bool = False


def attribute_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: LabelLoss = multilabel_loss,
    part: Part | None = None,
) -> AttributeLoss:
    """One forward of ``model`` and its loss.

    In training under an initialised process group the loss is this process's part of the mean over
    the images of all: DistributedDataParallel's gradient is then that of one process with all the
    images. Every process has to call, also with no image.

    Args:
        model: a classifier; one with a method ``training_loss`` (see
            :class:`fastcam.models.ModelSpec`) is trained with that.
        images: normalised [N, 3, H, W].
        labels: [N, K].
        loss: of any other model.
        part: of a batch in parts, which one this is; the loss is then its part of the mean over
            the images of the whole batch.
    """
    own = getattr(model, "training_loss", None)
    share: float | Tensor | None = None
    if part is not None:
        loss, share = part.loss or loss, part.share
    else:
        world = Reducer("mean", getattr(loss, "sync", "global"), None).world(model, images)
        if world > 1 and (own is not None or not hasattr(loss, "sync")):
            share = _share(images, world)
    empty = share is not None and not len(images)  # which has no mean
    parts: dict[str, Tensor] = {}
    if own is None:
        logits = model(images)
        value = logits.sum() if empty else loss(logits, labels)
    else:
        logits, terms = own(images, labels)
        value = terms.total
        named = terms._asdict().items()
        # Read many steps later: a model's own buffer would then say what it is by then.
        parts = {k: v.detach().clone() for k, v in named if k != "total" and v is not None}
    if empty:  # each weight gets a gradient of 0, past the logits of no image, too
        parts = {name: torch.zeros_like(part) for name, part in parts.items()}
        value = sum((0 * p.sum() for p in model.parameters() if p.requires_grad), logits.sum())
    elif share is not None:
        parts = {name: share * part for name, part in parts.items()}
        value = share * value
    return AttributeLoss(logits, value, parts)


def _share(images: Tensor, world: int) -> Tensor:
    """What the mean over these images counts in the mean over processes: scalar, mostly 1."""
    count = torch.full((), len(images), device=images.device)
    return Reducer("mean", "global", None).mean(count.float(), count, world, None)
