"""``InputGradientLoss``: pixels outside a region are not to move the score."""

from __future__ import annotations

import torch
from torch import Tensor

from fastcam.cam.head_autograd import autograd_gradients, before_backward, remedy_for
from fastcam.cam.head_graph import no_second_derivative
from fastcam.cam.heads import check_logits
from fastcam.cam.targets import TargetsLike, resolve_with_regions
from fastcam.losses.pairs import CamStats, PairLoss
from fastcam.ops import checks as check
from fastcam.ops.autograd import refuse_transforms
from fastcam.ops.library import acc_dtype
from fastcam.ops.pair_cells import PairCells

__all__ = ["InputGradientLoss"]


class InputGradientLoss(PairLoss):
    """Squared gradient of chosen scores at the image's pixels outside a region.

    For image n with pixels i and channels c, a score and its region S of 0 to 1 for each pixel,

        loss[n,t] = Σ_i (1 − S[n,t,i]) · Σ_c (∂score[n,t] / ∂image[n,c,i])². ::

        criterion = InputGradientLoss()
        images.requires_grad_()
        logits = model(images)
        loss = bce(logits, labels) + 0.01 * criterion(logits, images, masks, targets=36)
        loss.backward()

    The scores are what is passed as ``logits``. Ross et al. take the sum of the log-probabilities:
    ``criterion(logits.log_softmax(1).sum(1, keepdim=True), images, masks, targets=0)``.

    The network is differentiated twice, which costs about two more backward passes, and reaches all
    of its weights. In the activations of a network of ReLUs, convolutions and max pooling a logit's
    input gradient is constant (piecewise), so that this loss of *logits* has no gradient there and
    :class:`fastcam.Balance` cannot measure it: its ratio stays 0, which it says in a warning. Pass
    it log-probabilities or margins, or give this loss a fixed weight.

    Args:
        reduction: ``"mean"`` over the valid pairs, ``"sum"``, or ``"none"`` for [N,T].
        sync, process_group: see :class:`fastcam.IoUCamLoss`.

    Raises:
        ValueError: an option is not one of those above.

    A pair whose gradient is 0 at every pixel is dead (``stats``).

    Source: Ross et al., *Right for the Right Reasons* (2017), equation 1, second term, with a sum
    over chosen scores in place of all; docs/method.md.
    """

    def forward(
        self,
        logits: Tensor,
        images: Tensor,
        regions: Tensor,
        targets: TargetsLike = None,
        *,
        where: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of one forward.

        Args:
            logits: [N,K], computed from ``images``.
            images: [N,C,H,W] that require grad (``images.requires_grad_()`` before the forward).
            regions: [N,H,W] or [N,T,H,W] at the images' size, bool or in [0, 1]; a pair whose
                region is empty is not valid.
            targets: as :class:`fastcam.IoUCamLoss` takes them beside regions.
            where: bool [N] or [N,T]; False switches a pair off.
            normalizer: see :class:`fastcam.IoUCamLoss`.

        Returns:
            A scalar, or [N,T] with ``reduction="none"``; float64 if the images are, float32
            otherwise. A pair that is not valid costs 0.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came; also when
                the images do not require grad, when the logits do not depend on them, or when
                torch cannot differentiate the network twice.
        """
        reducer, normalizer = self._reducer(normalizer)
        refuse_transforms(self)
        check_logits(logits)
        check.floating("images", images)
        if images.dim() != 4 or images.shape[0] != logits.shape[0]:
            raise ValueError(
                f"images: expected shape [{logits.shape[0]},C,H,W] (N of logits), "
                f"got {list(images.shape)}"
            )
        if not images.requires_grad:
            raise ValueError(
                "images: expected a tensor that requires grad; call images.requires_grad_() before "
                "the forward"
            )
        if not logits.requires_grad:
            raise ValueError(
                "logits: expected the model's output with its graph, got a tensor that does not "
                "require grad (detached, or computed under torch.no_grad?)"
            )
        chosen, regions = resolve_with_regions(targets, regions, logits)
        cells = PairCells.of(regions, None, where, images, (len(logits), chosen.count))
        cells.check_values()
        graph = torch.is_grad_enabled()
        with before_backward([], logits, images):
            gradients = autograd_gradients(logits, images, chosen, graph, "images")
        if gradients.numel() == 0:
            gradients = gradients + 0 * images.sum()  # an empty batch has a backward, too
        elif graph and (name := no_second_derivative(gradients, logits, images)) is not None:
            raise ValueError(
                f"logits: torch cannot differentiate {name} twice, which lies between the images "
                f"and the logits{remedy_for(name, '; ')}"
            )
        dtype = acc_dtype(images)
        valid = cells.valid()
        gradients = torch.where(valid[..., None, None, None], gradients.to(dtype), 0)
        outside = 1 - cells.regions.to(dtype)
        loss = (outside * gradients.square().sum(2)).sum((-2, -1))
        dead = valid & ~gradients.detach().flatten(2).any(-1)
        self._stats = CamStats(valid.int() + 2 * dead.int())
        return reducer.of_pairs(loss, valid, reducer.world(self, images), normalizer)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"
