"""GroupDRO: the worst group of images counts most (Sagawa et al., 2020, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from fastcam._util import checks as check
from fastcam.data.celeba import attribute_index


class GroupDRO(nn.Module):
    """Binary cross entropy in which the cells of (a, b) weigh by how badly they do in a.

    In each training step, with ℓ_g the mean loss of a over the batch's images of cell g,

        q_g ← q_g · exp(step · ℓ_g), normalised to a sum of 1;   loss_a = Σ_g q_g·ℓ_g / Σ_g q_g,

    both sums over the cells that the batch has images of (with all four in it the second one is 1);
    the weights of the others change by the normalisation alone. The other attributes count as ever,
    so that where the four cells' losses are equal this is the plain mean over images and
    attributes.

    Args:
        attributes: names of the logits.
        a, b: their four cells are the groups, in the order ¬a¬b, ¬ab, a¬b, ab.
        step: of the weights.

    Raises:
        ValueError: an unknown attribute, or a step that is not above 0.

    Source: Sagawa, Koh, Hashimoto and Liang, "Distributionally robust neural networks for group
    shifts" (2020). There a group is drawn first and then its images; here batches are drawn as in
    any training.
    """

    weights: Tensor

    def __init__(self, attributes: Sequence[str], a: str, b: str, step: float = 0.01) -> None:
        super().__init__()
        check.number("step", step, "above 0", lambda x: x > 0)
        self.a, self.b = (attribute_index(list(attributes), name) for name in (a, b))
        self.step = step
        self.register_buffer("weights", torch.full((4,), 0.25))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar, from two [N,K]; in training the weights move first."""
        losses = nnf.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        present = labels > 0.5
        groups = 2 * present[:, self.a].long() + present[:, self.b].long()
        members = nnf.one_hot(groups, 4).to(losses)  # [N,4]
        counts = members.sum(0)
        means = (members * losses[:, self.a : self.a + 1]).sum(0) / counts.clamp(min=1)
        if self.training and torch.is_grad_enabled():
            moved = self.weights * (self.step * means.detach()).exp()
            self.weights.copy_(moved / moved.sum())
        q = self.weights * (counts > 0)
        worst = (q * means).sum() / q.sum()
        columns = losses.mean(0)
        return (columns.sum() - columns[self.a] + worst) / len(columns)
