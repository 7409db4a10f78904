"""Losses of the Grad-CAM map, as modules: one base, and a class for each loss's own options."""

from __future__ import annotations

from typing import Any, ClassVar, TypedDict, Unpack

import torch
from torch import Tensor

from fastcam.cam.heads import Head, activations_of, check_logits, head_gradients
from fastcam.cam.tap import ActivationTap
from fastcam.cam.targets import TargetsLike, resolve_with_regions
from fastcam.losses.pairs import CamStats, MapPairLoss, WeightGrad
from fastcam.losses.reduce import Reduction, Sync
from fastcam.ops import checks as check
from fastcam.ops.autograd import refuse_transforms
from fastcam.ops.cam_loss import (
    Binarize,
    CamLossName,
    MapLoss,
    loss_and_status,
    map_loss,
)
from fastcam.ops.grad_cam import prepare
from fastcam.ops.library import acc_dtype
from fastcam.ops.pair_cells import PairCells
from fastcam.reference import defined_pairs

__all__ = [
    "CAM_LOSSES",
    "CamLoss",
    "CamLossName",
    "CamStats",
    "CenterCamLoss",
    "EnergyCamLoss",
    "IoUCamLoss",
    "L1CamLoss",
    "OutsideCamLoss",
    "PPCECamLoss",
    "WeightGrad",
]


class _Common(TypedDict, total=False):
    """The options that :class:`CamLoss` has."""

    weight_grad: WeightGrad
    head: Head
    reduction: Reduction
    max_pair_pull: float | None
    sync: Sync
    process_group: Any


class CamLoss(MapPairLoss):
    """What the losses of the map have in common: from a tapped forward to a scalar.

    A loss is a subclass: its options as attributes, and :meth:`map_loss`.

    Args:
        weight_grad: ``"full"`` backpropagates through the channel weights α too, and so into the
            head's weights; ``"detach"`` treats α as constant: then only what lies before the tapped
            layer learns from the map.
        head: how the gradient of the scores is had. ``"autograd"`` differentiates the head;
            ``"closed"`` computes it from the head's weights (an error where there is no closed
            form); ``"auto"`` takes the closed form where there is one; ``"mean_dropout"`` is the
            closed form of the network without the dropout before its first linear layer: cheaper,
            and different from autograd while that dropout is active.
        reduction: ``"mean"`` over the valid pairs, ``"sum"``, or ``"none"`` for [N,T].
        max_pair_pull: see :func:`fastcam.functional.cam_iou_loss`.
        sync: under an initialised process group, ``"global"`` makes the mean one over the pairs of
            all processes, so that DistributedDataParallel's gradient is that of one process: every
            process has to call the loss, with an empty batch, too. It costs an all-reduce of one
            number, and nothing waits for it. In eval mode (of the loss, or of a tap's model),
            without gradients and with ``"local"`` each process has a mean of its own.
        process_group: of those processes; None for the default one. Copies share it, and no file
            can hold it (a pickle of the loss is an error).

    Raises:
        ValueError: an option is not one of those above.
    """

    def __init__(
        self,
        weight_grad: WeightGrad = "full",
        head: Head = "auto",
        reduction: Reduction = "mean",
        max_pair_pull: float | None = None,
        sync: Sync = "global",
        process_group: Any = None,
    ) -> None:
        super().__init__(weight_grad, head, reduction, sync, process_group)
        check.max_pair_pull(max_pair_pull)
        self.max_pair_pull = max_pair_pull

    def map_loss(self) -> MapLoss:
        """The loss of the map with its options, as they are now.

        Raises:
            TypeError, ValueError: an option does not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} has no map_loss()")

    def forward(
        self,
        logits: Tensor,
        activations: ActivationTap | Tensor,
        regions: Tensor,
        targets: TargetsLike = None,
        *,
        cell_weights: Tensor | None = None,
        where: Tensor | None = None,
        signs: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of one forward.

        Args:
            logits: [N,K], in the graph of the activations.
            activations: an entered :class:`fastcam.ActivationTap`, or the layer's output [N,C,H,W]
                itself (the gradient is then taken by autograd).
            regions: [N,H,W] or [N,T,H,W], the share of each cell that the region covers, in [0, 1].
                Values beyond are an error on the CPU; on a GPU the device asserts it, like torch's
                own losses do of class indices, since an error would have to wait for it.
            targets: which scores: an int; [N] (one per image) with regions [N,H,W]; [T] (the same
                for all images) with regions [N,T,H,W]; [N,T] with either (regions [N,H,W] then
                serve all T of an image); None for all K with regions [N,K,H,W]. An int, a list or a
                CPU tensor is checked to lie in [0, K-1]; indices on a GPU are not, as that would
                wait for the device (torch's own assertion there stops one out of range).
            cell_weights: [H,W] or [N or 1, T or 1, H, W], finite and >= 0 (checked as regions are).
            where: bool [N] or [N,T]; False switches a pair off.
            signs: [N] or [N,T] of +1 and −1, floating (checked as regions are, but for pairs that
                ``where`` switches off); −1 takes the map of the negated score, that is of what
                speaks against the target. None is +1 for all.
            normalizer: divides the sum in place of the number of valid pairs, for micro-batches of
                an accumulated step: a number or a scalar tensor, the pairs of the whole step (of
                all processes, with ``sync="global"``); :meth:`valid_pairs` counts them.

        Returns:
            A scalar, or [N,T] with ``reduction="none"``; float64 if the activations are, float32
            otherwise.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came; also when
                the tapped forward carries no graph, when the logits do not depend on the
                activations, or when ``head`` asks for a closed form that there is not.
        """
        reducer, normalizer = self._reducer(normalizer)
        loss = self.map_loss()
        refuse_transforms(
            self, "; compute the gradients with torch.func and call fastcam.functional.cam_loss"
        )
        check_logits(logits)
        chosen, regions = resolve_with_regions(targets, regions, logits)
        tensor = activations_of(activations, logits)
        pairs = len(logits), chosen.count
        cells = PairCells.of(regions, cell_weights, where, tensor, pairs)
        if tensor.is_cuda:
            cells.check_values()  # the CPU's kernel does it
        tensor, gradients = head_gradients(
            logits,
            activations,
            chosen,
            head=self.head,
            create_graph=self._through_weights(),
            needs_graph=torch.is_grad_enabled(),
            # Which pairs count, where that is known without waiting for a device.
            valid=cells.to(acc_dtype(tensor)).valid if tensor.is_cpu else None,
        )
        if signs is not None:
            gradients = gradients * check.signs(signs, gradients, cells.where)
        world = reducer.world(self, activations)
        own = normalizer is None and world == 1  # then the kernel takes the mean itself
        value, status = loss_and_status(
            *prepare(tensor, gradients),
            cells,
            loss,
            reduction=self.reduction if own else "sum",
            max_pair_pull=self.max_pair_pull,
        )
        self._stats = CamStats(status)
        return value if own else reducer.mean(value, (status & 1).sum(), world, normalizer)

    def valid_pairs(
        self,
        regions: Tensor,
        cell_weights: Tensor | None = None,
        where: Tensor | None = None,
    ) -> Tensor:
        """Which pairs a call counts: bool [N,T], known before a forward.

        Of a whole batch, their number is the ``normalizer`` of the micro-batches that an
        accumulated step divides it into; under a process group that of all processes.

        Args:
            regions: [N,H,W] (then T is 1) or [N,T,H,W], of any grid.
            cell_weights, where: as of a call.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came.
        """
        name, options, *_ = self.map_loss()
        full = check.region_grid(regions)
        cells = PairCells.of(full, cell_weights, where, full, full.shape[:2])
        away = bool(options.get("away", False))
        return defined_pairs(full, cells.cell_weights, cells.where, loss=name, away=away)

    def extra_repr(self) -> str:
        options = self.map_loss().options
        own = {name: value for name, value in options.items() if hasattr(self, name)}
        own |= {"weight_grad": self.weight_grad, "head": self.head, "reduction": self.reduction}
        if self.max_pair_pull is not None:
            own["max_pair_pull"] = self.max_pair_pull
        return ", ".join(f"{name}={value!r}" for name, value in own.items())


class IoUCamLoss(CamLoss):
    """IoU loss between the Grad-CAM of chosen scores and the regions they should look at.

    ::

        criterion = IoUCamLoss()
        with ActivationTap(model, "features.11", gradient_at="features.12") as tap:
            logits = model(images)
            guidance = criterion(logits, tap, regions, targets=36)
            loss = balance(bce(logits, labels), guidance, tap)  # fastcam.Balance()
        loss.backward()

    Args:
        threshold: θ in (0, 1), the share of a map's peak that counts as attention.
        sharpness: s >= 1 of the soft threshold. It may be changed between calls: at a large s a map
            that barely touches its region has almost no gradient, so a warm-up may start at 1.
        binarize: ``"tone"``, ``"sigmoid"`` or ``"hard"``: :func:`fastcam.functional.cam_iou_loss`.
        weight_grad, head, reduction, max_pair_pull, sync, process_group: see :class:`CamLoss`.
        eps: ε > 0, in numerator and denominator; a map that misses its region costs ln((U + ε)/ε).

    Raises:
        ValueError: an option is not one of those above.

    Yang et al., equations 1 and 2; docs/method.md has the steps and the soft threshold.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        sharpness: float = 8.0,
        binarize: Binarize = "tone",
        weight_grad: WeightGrad = "full",
        head: Head = "auto",
        reduction: Reduction = "mean",
        max_pair_pull: float | None = None,
        sync: Sync = "global",
        process_group: Any = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(weight_grad, head, reduction, max_pair_pull, sync, process_group)
        self.threshold = threshold
        self.sharpness = sharpness
        self.binarize = binarize
        self.eps = eps
        self.map_loss()  # checks them

    def map_loss(self) -> MapLoss:
        return map_loss(
            "iou",
            threshold=self.threshold,
            sharpness=self.sharpness,
            eps=self.eps,
            binarize=self.binarize,
        )


class _AwayCamLoss(CamLoss):
    """A loss that has a form for a region to leave."""

    _name: ClassVar[CamLossName]

    def __init__(self, away: bool = False, **common: Unpack[_Common]) -> None:
        super().__init__(**common)
        self.away = away
        self.map_loss()

    def map_loss(self) -> MapLoss:
        return map_loss(self._name, away=self.away)


class EnergyCamLoss(_AwayCamLoss):
    """How much of the Grad-CAM lies outside the region: 1 − Σ w·x·S / Σ w·x.

    A map without energy costs 1. It has a gradient at every cell of the map, however far from the
    region, and asks for no more than that all of the map lies inside. Rao et al., the energy loss.

    Args:
        away: the region shall be left: Σ w·x·S / Σ w·x, 0 for a map without energy.
        weight_grad, head, reduction, max_pair_pull, sync, process_group: see :class:`CamLoss`.
    """

    _name = "energy"


class OutsideCamLoss(_AwayCamLoss):
    """Mean square of the Grad-CAM outside the region: Σ w·(1 − S)·x² / Σ w·(1 − S).

    A pair whose region is everything is invalid. After Ross et al. (right for the right reasons),
    who do this with input gradients.

    Args:
        away: inside the region instead: Σ w·S·x² / Σ w·S.
        weight_grad, head, reduction, max_pair_pull, sync, process_group: see :class:`CamLoss`.
    """

    _name = "outside"


class CenterCamLoss(CamLoss):
    """Squared distance between the centroids of the Grad-CAM and of the region.

    Both are weighted by w; rows are divided by H, columns by W. A map without energy has its
    centroid at the grid's centre. Named in Yang et al., Table 1, without a formula; this one is
    fastcam's. Args: see :class:`CamLoss`.
    """

    def map_loss(self) -> MapLoss:
        return map_loss("center")


class L1CamLoss(CamLoss):
    """Mean distance between the Grad-CAM and the region, cell by cell: Σ w·abs(x − S) / Σ w.

    Rao et al.; Gao et al. (GRADIA). Args: see :class:`CamLoss`.
    """

    def map_loss(self) -> MapLoss:
        return map_loss("l1")


class PPCECamLoss(CamLoss):
    """Cross entropy of the Grad-CAM at each cell of the region: −Σ w·S·ln(x + ε) / Σ w·S.

    It asks for attention in all of the region and says nothing of what lies outside. Rao et al.,
    the per-pixel cross entropy.

    Args:
        eps: ε > 0; a map that is zero in the region costs −ln ε.
        weight_grad, head, reduction, max_pair_pull, sync, process_group: see :class:`CamLoss`.
    """

    def __init__(self, eps: float = 1e-3, **common: Unpack[_Common]) -> None:
        super().__init__(**common)
        self.eps = eps
        self.map_loss()

    def map_loss(self) -> MapLoss:
        return map_loss("ppce", eps=self.eps)


#: The losses of the map by name.
CAM_LOSSES: dict[CamLossName, type[CamLoss]] = {
    "iou": IoUCamLoss,
    "energy": EnergyCamLoss,
    "center": CenterCamLoss,
    "l1": L1CamLoss,
    "ppce": PPCECamLoss,
    "outside": OutsideCamLoss,
}
