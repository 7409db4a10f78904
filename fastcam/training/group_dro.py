"""GroupDRO: the worst group of images counts most (Sagawa et al., 2020, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as nnf

from fastcam._util import checks as check
from fastcam.data.labelled import attribute_pair
from fastcam.losses.reduce import Reducer, Sync


class GroupDRO(nn.Module):
    """Binary cross entropy in which the cells of (a, b) weigh by how badly they do in a.

    In each training step, with ℓ_g the mean loss of a over the batch's images of cell g,

        q_g ← q_g · exp(step · ℓ_g), normalised to a sum of 1;   loss_a = Σ_g q_g·ℓ_g / Σ_g q_g,

    both sums over the cells that the batch has images of (with all four in it the second one is 1);
    the weights of the others change by the normalisation alone. What is minimised is

        share · loss_a + (1 - share) · (the mean over images and the other attributes).

    Args:
        attributes: names of the logits.
        a, b: their four cells are the groups, in the order ¬a¬b, ¬ab, a¬b, ab.
        step: of the weights.
        share: of the groups' loss; all of it where there is no other attribute. As one of K
            attributes, 1/K, it would hardly move a network that has many.
        sync, process_group: as of the losses of the map.

    Raises:
        ValueError: an unknown attribute, one twice, a step that is not above 0, or a share that is
            not above 0 and up to 1.

    Source: Sagawa, Koh, Hashimoto and Liang, "Distributionally robust neural networks for group
    shifts" (2020). There a group is drawn first and then its images; here batches are drawn as in
    any training.
    """

    weights: Tensor

    def __init__(
        self,
        attributes: Sequence[str],
        a: str,
        b: str,
        step: float = 0.01,
        share: float = 0.5,
        *,
        sync: Sync = "global",
        process_group: Any = None,
    ) -> None:
        super().__init__()
        Reducer("mean", sync, process_group)  # checks them
        self.sync, self.process_group = sync, process_group
        check.number("step", step, "above 0", lambda x: x > 0)
        self.a, self.b = attribute_pair(list(attributes), a, b, "the classifier judges")
        check.number("share", share, "above 0 and up to 1", lambda x: 0 < x <= 1)
        self.step, self.share = step, share
        self.register_buffer("weights", torch.full((4,), 0.25))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar, from two [N,K]; in training the weights move first."""
        losses = nnf.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        present = labels > 0.5
        groups = 2 * present[:, self.a].long() + present[:, self.b].long()
        members = nnf.one_hot(groups, 4).to(losses)  # [N,4]
        world = Reducer("mean", self.sync, self.process_group).world(self, logits)
        sums = (members * losses[:, self.a : self.a + 1]).sum(0)
        counts, images = members.sum(0), members.new_full((), len(members))
        known = torch.cat([sums.detach(), counts, images[None]])
        if world > 1:
            dist.all_reduce(known, group=self.process_group)
        (found, counts), images = known[:8].view(2, 4), known[8]
        if self.training and torch.is_grad_enabled():
            moved = self.weights * (self.step * found / counts.clamp(min=1)).exp()
            self.weights.copy_(moved / moved.sum())
        q = self.weights * (counts > 0)
        worst = (q * world * sums / counts.clamp(min=1)).sum() / q.sum()
        if losses.shape[1] == 1:
            return worst
        others = world * (losses.sum() - losses[:, self.a].sum()) / images / (losses.shape[1] - 1)
        return self.share * worst + (1 - self.share) * others
