"""Networks for the tests of the tap, the heads and the losses: torchvision's own, made narrow.

Only the widths of AlexNet's and VGG's linear layers are cut (from 4096), so that a test takes a
fraction of a second; the modules, their order and torchvision's ``forward`` are as they come.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastcam import reference

CLASSES = 5
SIZES = {"alexnet": 96, "vgg11": 48, "resnet18": 64}
LAYERS = {
    "alexnet": ("features.11", "features.12"),
    "vgg11": ("features.19", "features.20"),
    "resnet18": ("layer4", None),
}


def network(name: str, classes: int = CLASSES, width: int = 24, seed: int = 0) -> nn.Module:
    """A torchvision classifier with He initialisation, in train mode, float64."""
    import torchvision  # here: the processes of the DDP test need not wait for it

    torch.manual_seed(seed)
    with torch.device("meta"):
        net = getattr(torchvision.models, name)(num_classes=classes)
    classifier = getattr(net, "classifier", None)
    linears = [
        (index, layer)
        for index, layer in enumerate(classifier if classifier is not None else ())
        if isinstance(layer, nn.Linear)
    ]
    for index, layer in linears:
        inputs = layer.in_features if index == linears[0][0] else width
        outputs = classes if index == linears[-1][0] else width
        classifier[index] = nn.Linear(inputs, outputs, device="meta")
    net = net.to(torch.float64).to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return net.train()


def images(name: str, batch: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = SIZES[name]
    return torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64)


def grids(*shape: int, seed: int = 2) -> Tensor:
    """Region grids with cells in [0,1], half of them 0."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1).clamp(min=0)


def small_cnn(
    classes: int = CLASSES, seed: int = 0, head: nn.Module | None = None
) -> nn.Sequential:
    """Two convolutions and an AlexNet-like head, for tests that count and repeat."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8 * 3 * 3, 16),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(16, classes),
    )


def plain_gradients(logits: Tensor, activations: Tensor, index: Tensor) -> Tensor:
    """D [N,T,C,H,W] as anyone would get it: one differentiation for each target; index [N,T]."""
    columns = []
    for t in range(index.shape[1]):
        score = logits.gather(1, index[:, t : t + 1]).sum()
        columns.append(torch.autograd.grad(score, activations, create_graph=True)[0])
    return torch.stack(columns, 1)


def plain_loss(
    logits: Tensor,
    activations: Tensor,
    regions: Tensor,
    index: Tensor,
    detach: bool = False,
    **options,
) -> Tensor:
    """The Grad-CAM IoU loss in plain PyTorch, the expectation of every test of values."""
    gradients = plain_gradients(logits, activations, index)
    return reference.cam_iou_loss(
        activations, gradients.detach() if detach else gradients, regions, **options
    )


def gradients_of(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """∂loss/∂parameter by name, zero where the loss does not depend on it; no `.grad` changes."""
    names = [name for name, _ in model.named_parameters()]
    found = torch.autograd.grad(
        loss, list(model.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, found, strict=True))


def assert_same_gradients(
    got: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-9
):
    assert got.keys() == wanted.keys()
    # What cancels (of a bias before a batch norm) is no more exact than the others are large.
    least = 1e-6 * max(float(g.abs().max()) for g in wanted.values())
    for name, expected in wanted.items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(
            got[name],
            expected,
            rtol=tolerance,
            atol=tolerance * max(scale, least, 1e-12),
            msg=lambda m, n=name: f"{n}: {m}",
        )
