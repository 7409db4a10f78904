"""The loss of the labels: of attributes, of classes, the model's own, or yours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as nnf

#: From logits [N, K] and labels [N, K] of 0 and 1 to a scalar.
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


def attribute_loss(
    model: nn.Module, images: Tensor, labels: Tensor, loss: LabelLoss = multilabel_loss
) -> AttributeLoss:
    """One forward of ``model`` and its loss.

    Args:
        model: a classifier; one with a method ``training_loss`` (see
            :class:`fastcam.models.ModelSpec`) is trained with that.
        images: normalised [N, 3, H, W].
        labels: [N, K].
        loss: of any other model.
    """
    own = getattr(model, "training_loss", None)
    if own is None:
        logits = model(images)
        return AttributeLoss(logits, loss(logits, labels))
    logits, terms = own(images, labels)
    parts = {k: v.detach() for k, v in terms._asdict().items() if k != "total" and v is not None}
    return AttributeLoss(logits, terms.total, parts)
