"""Grad-CAM of the other libraries, each called as its documentation says, and ours.

Every function takes an eval-mode model, the target layer's name, images [N,3,H,W] and the indices
of some attributes, and returns maps [N,T,h,w] at the layer's size. The peers scale a map to its
minimum and maximum, so ``comparable`` does that to all of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import version

import torch
from torch import Tensor, nn

import fastcam

Explainer = Callable[[nn.Module, str, Tensor, Sequence[int]], Tensor]


def fused(model: nn.Module, layer: str, images: Tensor, targets: Sequence[int]) -> Tensor:
    with torch.no_grad(), fastcam.ActivationTap(model, layer) as tap:
        return fastcam.grad_cam_maps(model(images), tap, list(targets))


def plain_autograd(model: nn.Module, layer: str, images: Tensor, targets: Sequence[int]) -> Tensor:
    """One forward, one differentiation of the head for each attribute, the reference's map."""
    seen: list[Tensor] = []
    module = model.get_submodule(layer)
    hook = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    logits = model(images)
    hook.remove()
    gradients = [
        torch.autograd.grad(logits[:, target].sum(), seen[0], retain_graph=True)[0]
        for target in targets
    ]
    return fastcam.reference.grad_cam(seen[0].detach(), torch.stack(gradients, dim=1))


def grad_cam(model: nn.Module, layer: str, images: Tensor, targets: Sequence[int]) -> Tensor:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class AtLayer(GradCAM):
        """Without enlarging the map to the image, which nobody else does here."""

        def get_target_width_height(self, input_tensor: Tensor) -> None:
            return None

    with AtLayer(model=model, target_layers=[model.get_submodule(layer)]) as cam:
        maps = [
            torch.from_numpy(cam(images, [ClassifierOutputTarget(target)] * len(images)))
            for target in targets
        ]
    return torch.stack(maps, dim=1)


def torchcam(model: nn.Module, layer: str, images: Tensor, targets: Sequence[int]) -> Tensor:
    from torchcam.methods import GradCAM

    with GradCAM(model, layer) as extractor:
        scores = model(images)
        maps = [extractor(target, scores, retain_graph=True)[0] for target in targets]
    return torch.stack(maps, dim=1)


def captum(model: nn.Module, layer: str, images: Tensor, targets: Sequence[int]) -> Tensor:
    from captum.attr import LayerGradCam

    explainer = LayerGradCam(model, model.get_submodule(layer))
    maps = [
        explainer.attribute(images, target, relu_attributions=True).detach() for target in targets
    ]
    return torch.cat(maps, dim=1)


# distribution: module, function
PEERS: dict[str, tuple[str, Explainer]] = {
    "grad-cam": ("pytorch_grad_cam", grad_cam),
    "torchcam": ("torchcam", torchcam),
    "captum": ("captum", captum),
}


def installed() -> tuple[dict[str, Explainer], dict[str, str]]:
    """The peers that can be imported, by name and version; and why the others cannot."""
    found: dict[str, Explainer] = {}
    missing: dict[str, str] = {}
    for name, (module, explain) in PEERS.items():
        try:
            importlib.import_module(module)
            found[f"{name} {version(name)}"] = explain
        except Exception as error:  # whatever an import can end in
            missing[name] = f"{type(error).__name__}: {error}"
    return found, missing


def comparable(maps: Tensor) -> Tensor:
    """Each map from 0 at its minimum to 1 at its maximum."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)
