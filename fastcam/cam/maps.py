"""``grad_cam_maps``: the Grad-CAM of any scores, to look at or to write a loss of."""

from __future__ import annotations

import torch
from torch import Tensor

from fastcam import functional
from fastcam.cam.heads import Head, check_logits, head_gradients
from fastcam.cam.tap import ActivationTap
from fastcam.cam.targets import TargetsLike, resolve
from fastcam.ops import checks as check

__all__ = ["grad_cam_maps"]


def grad_cam_maps(
    logits: Tensor,
    activations: ActivationTap | Tensor,
    targets: TargetsLike = None,
    *,
    head: Head = "auto",
    normalize: bool = True,
    create_graph: bool = False,
) -> Tensor:
    """Grad-CAM of any number of targets at once, by closed form where the head has one.

    As it comes, to look at; with ``create_graph=True`` for any loss of the map in plain PyTorch::

        with fastcam.ActivationTap(model, "layer4") as tap:
            logits = model(images)
            maps = fastcam.grad_cam_maps(logits, tap, [3, 7], create_graph=True)  # [N,2,H,W]
            loss = bce(logits, labels) + 0.1 * (maps * outside).square().mean()
        loss.backward()

    The maps are then differentiable, once, in the activations and, through the channel weights α,
    in the head's weights.

    Without ``create_graph`` no graph is kept, and where the head has a closed form the forward may
    run under ``torch.no_grad``. Without a graph the head is recognised by its modules: that each is
    torch's own layer, with torch's own forward, and took what the one before it had returned,
    unchanged. Functions and hooks that change only gradients (a gradient reversal, a ``detach``)
    cannot be seen there, and the map is that of the values alone; run the forward with gradients
    where the head has any.

    Args:
        logits: [N,K], or what :func:`fastcam.functional.margins` makes of them.
        activations: an entered tap, or the tensor [N,C,H,W] that the logits were computed from.
        targets: an int, [T] for all images, [N,T], or None for all K. Labels [N], one an image, are
            ``labels[:, None]``: without regions [N] is N scores of every image.
        head: see :class:`fastcam.IoUCamLoss`.
        normalize: divide each map by its maximum; a map that is zero everywhere stays zero.
        create_graph: keep the maps differentiable (where gradients are enabled).

    Returns:
        [N,T,H,W]; float64 if the activations are, float32 otherwise. Detached without
        ``create_graph``.

    Raises:
        TypeError, ValueError: as :class:`fastcam.IoUCamLoss`.
    """
    check_logits(logits)
    check.flag("create_graph", create_graph)
    graph = create_graph and torch.is_grad_enabled()
    chosen = resolve(targets, logits)
    tensor, gradients = head_gradients(
        logits, activations, chosen, head=head, create_graph=graph, needs_graph=graph
    )
    if not graph:
        tensor, gradients = tensor.detach(), gradients.detach()
    return functional.grad_cam(tensor, gradients, normalize)
