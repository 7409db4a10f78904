"""``ContrastCamLoss``: two classes are not to be explained by the same place."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fastcam import functional
from fastcam.cam.heads import activations_of, check_logits, head_gradients
from fastcam.cam.tap import ActivationTap
from fastcam.cam.targets import Targets, TargetsLike, resolve
from fastcam.losses.pairs import CamStats, MapPairLoss
from fastcam.ops import checks as check
from fastcam.ops.autograd import refuse_transforms

__all__ = ["ContrastCamLoss"]


class ContrastCamLoss(MapPairLoss):
    """Cosine similarity of two scores' Grad-CAM: the map of a class against a confounder's.

    For maps x and y [H,W] of a target and of the other score of its pair,

        loss = Σ_p x_p·y_p / (‖x‖·‖y‖),  in [0, 1]:

    0 where they have no cell in common, 1 where they are equal but for a factor. ::

        criterion = ContrastCamLoss()
        with ActivationTap(model, "layer4") as tap:
            logits = model(images)
            apart = criterion(logits, tap, labels[:, None], confounders[:, None])
            loss = ce(logits, labels) + apart
        loss.backward()

    Args:
        weight_grad: ``"full"`` backpropagates through the channel weights α too, and so into the
            head's weights; ``"detach"`` treats α as constant.
        head: see :class:`fastcam.IoUCamLoss`.
        reduction: ``"mean"`` over the pairs that ``where`` leaves on, ``"sum"``, or ``"none"`` for
            [N,T].
        sync, process_group: see :class:`fastcam.IoUCamLoss`.

    Raises:
        ValueError: an option is not one of those above.

    A pair of which a map is zero everywhere is dead (``stats``): its loss and gradient are 0.

    Source: the idea of eX2L (arXiv 2605.06368); docs/method.md.
    """

    def forward(
        self,
        logits: Tensor,
        activations: ActivationTap | Tensor,
        targets: TargetsLike,
        others: TargetsLike,
        *,
        where: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of one forward.

        Args:
            logits: [N,K], in the graph of the activations.
            activations: an entered :class:`fastcam.ActivationTap`, or the layer's output [N,C,H,W].
            targets: the scores to keep apart from ``others``: an int, [T] for all images, or [N,T]
                (labels [N], one an image, as ``labels[:, None]``).
            others: as ``targets``, and as many for each image, or one.
            where: bool [N] or [N,T]; False switches a pair off.
            normalizer: see :class:`fastcam.IoUCamLoss`.

        Returns:
            A scalar, or [N,T] with ``reduction="none"``; float64 if the activations are, float32
            otherwise.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came; also as
                :class:`fastcam.IoUCamLoss` does of logits and activations.
        """
        reducer, normalizer = self._reducer(normalizer)
        refuse_transforms(self)
        check_logits(logits)
        first, second = (resolve(t, logits) for t in (targets, others))
        if second.count not in (1, first.count):
            raise ValueError(
                f"others: expected {first.count} scores for each image (T of targets) or one, "
                f"got {second.count}"
            )
        pairs = len(logits), first.count
        if pairs[0] == pairs[1] > 1 and all(_one_axis(t) for t in (targets, others)):
            warnings.warn(
                f"targets, others: tensors [{pairs[1]}] are as many scores of every image; one of "
                "each image, its label, is targets[:, None] and others[:, None]",
                stacklevel=4,  # of a module's call
            )
        tensor = activations_of(activations, logits)
        on = torch.ones(pairs, dtype=torch.bool, device=tensor.device)
        if where is not None:
            on = check.where(where, tensor, pairs)
        index = [t.of_images(logits) for t in (first, second)]
        both = torch.cat([index[0], index[1].expand(pairs)], 1)
        if not (first.by_image or second.by_image):
            both = both[:1]  # shared by all images, which saves products
        tensor, gradients = head_gradients(
            logits,
            activations,
            Targets(both, logits.device),
            head=self.head,
            create_graph=self._through_weights(),
            needs_graph=torch.is_grad_enabled(),
            valid=(lambda: torch.cat([on, on], 1)) if tensor.is_cpu else None,
        )
        # What is switched off is cut at D and at the map, so that no NaN of it reaches a gradient.
        gradients = torch.where(torch.cat([on, on], 1)[..., None, None, None], gradients, 0)
        maps = functional.grad_cam(tensor, gradients, normalize=False).flatten(2)
        maps = torch.where(torch.cat([on, on], 1)[..., None], maps, 0)
        x, y = (_unit_peak(m) for m in maps.tensor_split(2, dim=1))
        dead = (x == 0).all(-1) | (y == 0).all(-1)
        # Of a dead pair the root has no slope: it takes it of ones, and drops it.
        x, y = (torch.where(dead[..., None], 1, m) for m in (x, y))
        cosine = (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()
        cosine = torch.where(dead, 0, cosine)
        self._stats = CamStats(on.int() + 2 * (on & dead).int())
        return reducer.of_pairs(cosine, on, reducer.world(self, activations), normalizer)

    def extra_repr(self) -> str:
        return f"weight_grad={self.weight_grad!r}, head={self.head!r}, reduction={self.reduction!r}"


def _one_axis(targets: TargetsLike) -> bool:
    return isinstance(targets, Tensor) and targets.dim() == 1


def _unit_peak(maps: Tensor) -> Tensor:
    """Maps [...,P] with their maximum at 1; it is no factor of a cosine, so it is constant."""
    peak = maps.detach().max(-1, keepdim=True).values
    return maps / torch.where(peak == 0, 1, peak)
