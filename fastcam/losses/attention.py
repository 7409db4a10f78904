"""The loss of the attention network, as a function and a module.

Kimura & Tanaka, equations 1, 3, 5 and 6; the equations below are theirs (docs/method.md).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as nnf

from fastcam.ops import checks as check

__all__ = ["AttentionLoss", "AttentionLossTerms", "AttentionOutputs", "attention_loss"]


class AttentionOutputs(NamedTuple):
    """What an attention network says about N images.

    Attributes:
        binary: logits of the K binary classifiers, ``[N,K]`` (``[J,N,K]`` for J transformations).
        multilabel: logits of the multi-label classifier, ``[N,K]``; None without one.
        reconstruction: of the input images, ``[N,3,H,W]``; None without a reconstructor.
        l1: ‖M‖₁ of every mask, summed over channels and cells, ``[N,K]``.
    """

    binary: Tensor
    multilabel: Tensor | None
    reconstruction: Tensor | None
    l1: Tensor


class AttentionLossTerms(NamedTuple):
    """The loss and its unweighted parts, all scalars.

    Attributes:
        total: L of eq. 6, with the graph.
        binary: L_b of eq. 1.
        multilabel: L_m of eq. 3, or None.
        reconstruction: L_r of eq. 5, or None.
        l1: ‖M‖₁.
    """

    total: Tensor
    binary: Tensor
    multilabel: Tensor | None
    reconstruction: Tensor | None
    l1: Tensor


def _weights(*values: float) -> dict[str, float]:
    """The weights of eq. 6 by name, checked."""
    weights = dict(zip(("lambda_b", "lambda_m", "lambda_r", "lambda_1"), values, strict=True))
    for name, value in weights.items():
        check.number(name, value, "finite and >= 0", lambda x: 0 <= x < math.inf)
    return weights


def _real(name: str, tensor: Tensor) -> None:
    check.dense(name, tensor)
    if tensor.is_complex():
        raise TypeError(f"{name}: expected real numbers or bool, got {tensor.dtype}")


def _entropy(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy summed over attributes, averaged over images (eq. 1 and 3)."""
    check.floating(name, logits)
    if logits.dim() != 2:
        raise ValueError(f"{name}: expected logits of shape [N,K], got {list(logits.shape)}")
    check.same_device("labels", labels, logits, f"the {name} logits")
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels: expected shape {list(logits.shape)} ({name} logits), got {list(labels.shape)}"
        )
    return nnf.binary_cross_entropy_with_logits(
        logits, labels.to(logits.dtype), reduction="none"
    ).sum() / max(len(logits), 1)


def attention_loss(
    outputs: AttentionOutputs,
    labels: Tensor,
    images: Tensor | None = None,
    *,
    lambda_b: float = 1.0,
    lambda_m: float = 1.0,
    lambda_r: float = 4.0,
    lambda_1: float = 1e-5,
) -> AttentionLossTerms:
    """``L = λ_b·L_b + λ_m·L_m + λ_r·L_r + λ_1·‖M‖₁`` (eq. 6).

    L_b and L_m are binary cross entropies summed over the attributes and averaged over the images,
    as eq. 1 and 3 are written: with K attributes they are K times PyTorch's mean. Eq. 5 leaves
    open how L_r sums over pixels: here it is the mean squared error over images, channels and
    pixels. ‖M‖₁ is summed over attributes, channels and cells and averaged over the images. A part
    that the network does not have counts nothing, an empty batch 0.

    Args:
        outputs: of the network in training (no leading axis of transformations).
        labels: ``[N,K]``, 0 or 1 or between; bool or any number type.
        images: ``[N,3,H,W]``, what the reconstruction should be: x of eq. 5, the tensor that the
            network was given, so the *normalised* images where it is trained on those. May be left
            out without a reconstructor.
        lambda_b, lambda_m, lambda_r, lambda_1: the weights, >= 0; the defaults are the paper's.

    Returns:
        The total and its unweighted parts.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; on the CPU,
            outside of compiled graphs, also for labels beyond [0, 1].
    """
    _weights(lambda_b, lambda_m, lambda_r, lambda_1)
    if not isinstance(outputs, AttentionOutputs):
        raise TypeError(
            "outputs: expected an AttentionOutputs, as network.outputs(images) returns, got "
            f"{type(outputs).__name__}"
        )
    _real("labels", labels)
    check.values_of_labels(labels)
    check.floating("l1", outputs.l1)
    if outputs.l1.dim() != 2:
        raise ValueError(f"l1: expected shape [N,K], got {list(outputs.l1.shape)}")
    binary = _entropy("binary", outputs.binary, labels)
    l1 = outputs.l1.sum() / max(len(outputs.l1), 1)
    total = lambda_b * binary + lambda_1 * l1
    multilabel = reconstruction = None
    if outputs.multilabel is not None:
        multilabel = _entropy("multilabel", outputs.multilabel, labels)
        total = total + lambda_m * multilabel
    if outputs.reconstruction is not None:
        check.floating("reconstruction", outputs.reconstruction)
        wanted = list(outputs.reconstruction.shape)
        if images is not None:
            _real("images", images)
            check.same_device("images", images, outputs.reconstruction, "the reconstruction")
        if images is None or list(images.shape) != wanted:
            came = "None" if images is None else str(list(images.shape))
            raise ValueError(
                f"images: expected shape {wanted} (that of the reconstruction), got {came}"
            )
        reconstruction = nnf.mse_loss(
            outputs.reconstruction,
            images.to(outputs.reconstruction.dtype),
            reduction="mean" if outputs.reconstruction.numel() else "sum",  # a mean of none is NaN
        )
        total = total + lambda_r * reconstruction
    return AttentionLossTerms(total, binary, multilabel, reconstruction, l1)


class AttentionLoss(nn.Module):
    """:func:`attention_loss` with fixed weights.

    ::

        criterion = AttentionLoss()
        terms = criterion(network.outputs(images), labels, images)
        terms.total.backward()

    Args:
        lambda_b, lambda_m, lambda_r, lambda_1: weights of the binary classifiers, the multi-label
            classifier, the reconstruction and the masks' L1 norm, >= 0.

    Raises:
        TypeError, ValueError: a weight is no such number.
    """

    def __init__(
        self,
        lambda_b: float = 1.0,
        lambda_m: float = 1.0,
        lambda_r: float = 4.0,
        lambda_1: float = 1e-5,
    ) -> None:
        super().__init__()
        self.weights = _weights(lambda_b, lambda_m, lambda_r, lambda_1)

    def forward(
        self, outputs: AttentionOutputs, labels: Tensor, images: Tensor | None = None
    ) -> AttentionLossTerms:
        """See :func:`attention_loss`."""
        return attention_loss(outputs, labels, images, **self.weights)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.weights.items())
