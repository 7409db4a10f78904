"""The attribute loss: binary cross entropy, or the model's own."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as nnf

from fastcam.training.group_dro import GroupDRO


@dataclass
class AttributeLoss:
    """One batch's logits and loss.

    logits: [N, K]. loss: scalar. parts: scalars without a graph, by name, where the loss has parts.
    """

    logits: Tensor
    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


def attribute_loss(
    model: nn.Module, images: Tensor, labels: Tensor, groups: GroupDRO | None = None
) -> AttributeLoss:
    """One forward of ``model`` and its loss.

    Args:
        model: a classifier; one with a method ``training_loss`` (see
            :class:`fastcam.models.ModelSpec`) is trained with that.
        images: normalised [N, 3, H, W].
        labels: [N, K].
        groups: in place of the binary cross entropy.
    """
    own = getattr(model, "training_loss", None)
    if own is None:
        logits = model(images)
        loss = nnf.binary_cross_entropy_with_logits if groups is None else groups
        return AttributeLoss(logits, loss(logits, labels))
    logits, terms = own(images, labels)
    parts = {k: v.detach() for k, v in terms._asdict().items() if k != "total" and v is not None}
    return AttributeLoss(logits, terms.total, parts)
