"""What ``bench.fuzz`` compares losses, maps and balances with, in plain PyTorch; small networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from fastcam import reference


def index_of(targets: Any, logits: Tensor, regions: Tensor | None = None) -> Tensor:
    """Columns of the logits [N,T] that targets stand for."""
    if targets is None:
        return torch.arange(logits.shape[1]).expand(len(logits), -1)
    index = torch.as_tensor(targets).long()
    if index.dim() == 0:
        index = index[None]
    elif index.dim() == 1 and regions is not None and regions.dim() == 3:
        index = index[:, None]
    return index.expand(len(logits), -1)


def gradients_of(logits: Tensor, of: Tensor, index: Tensor) -> Tensor:
    """∂score/∂of, [N,T,*], one differentiation for each target."""
    found = [
        torch.autograd.grad(logits.gather(1, column[:, None]).sum(), of, create_graph=True)[0]
        for column in index.T
    ]
    return torch.stack(found, 1) if found else of.new_zeros(len(of), 0, *of.shape[1:])


def maps(
    logits: Tensor,
    activations: Tensor,
    targets: Any = None,
    normalize: bool = True,
    create_graph: bool = False,
    **_: Any,
) -> Tensor:
    """``grad_cam_maps`` of activations; with ``create_graph`` it has a graph."""
    gradients = gradients_of(logits, activations, index_of(targets, logits))
    found = reference.grad_cam(activations, gradients, normalize)
    return found if create_graph else found.detach()


def _reduced(
    value: Tensor, valid: Tensor, reduction: str, normalizer: float | Tensor | None
) -> Tensor:
    if reduction == "none":
        return value
    if reduction == "sum":
        return value.sum()
    return value.sum() / (valid.sum().clamp(min=1) if normalizer is None else normalizer)


def cam_loss(
    told: dict[str, Any],
    logits: Tensor,
    activations: Tensor,
    regions: Tensor,
    targets: Any = None,
    *,
    signs: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    **cells: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """A loss of the map with the options that it is ``told``, and the valid and dead pairs."""
    options = dict(told)
    reduction, detach = options.pop("reduction", "mean"), options.pop("detach")
    index = index_of(targets, logits, regions)
    gradients = gradients_of(logits, activations, index)
    if signs is not None:
        signs = signs if signs.dim() == 2 else signs[:, None]
        gradients = gradients * signs[..., None, None, None]
    full = regions if regions.dim() == 4 else regions[:, None]
    full = full.expand(-1, index.shape[1], -1, -1)
    valid = reference.defined_pairs(full, **cells, **options)
    raw = reference.grad_cam(activations, gradients, normalize=False)
    dead = valid & (raw == 0).all(-1).all(-1)
    value = reference.cam_loss(
        activations, gradients.detach() if detach else gradients, full, reduction="none",
        **cells, **options,
    )  # fmt: skip
    return _reduced(value, valid, reduction, normalizer), valid.sum(), dead.sum()


def valid_pairs(
    loss: str,
    away: bool,
    regions: Tensor,
    cell_weights: Tensor | None = None,
    where: Tensor | None = None,
) -> Tensor:
    """Pairs with an area to look at and, of the loss "outside", one to leave."""
    regions = regions if regions.dim() == 4 else regions[:, None]
    weights = torch.ones(()) if cell_weights is None else cell_weights
    valid = ((weights * regions) > 0).any(-1).any(-1)
    if loss == "outside" and not away:
        valid = valid & ((weights * (1 - regions)) > 0).any(-1).any(-1)
    if where is None:
        return valid
    return valid & (where[:, None] if where.dim() == 1 else where)


def contrast_loss(
    reduction: str,
    detach: bool,
    logits: Tensor,
    activations: Tensor,
    targets: Any,
    others: Any,
    *,
    where: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """Cosines of two scores' maps."""
    found = []
    for which in (targets, others):
        gradients = gradients_of(logits, activations, index_of(which, logits))
        gradients = gradients.detach() if detach else gradients
        found.append(reference.grad_cam(activations, gradients, normalize=False).flatten(2))
    pairs = found[0].shape[:2]
    on = torch.ones(pairs, dtype=torch.bool)
    if where is not None:
        on = (where[:, None] if where.dim() == 1 else where).expand(pairs)
    x, y = found[0], found[1].expand_as(found[0])
    dead = (x == 0).all(-1) | (y == 0).all(-1)
    x, y = (torch.where(dead[..., None], 1, m) for m in (x, y))
    cosine = torch.where(on & ~dead, nnf.cosine_similarity(x, y, dim=-1, eps=0), 0)
    return _reduced(cosine, on, reduction, normalizer)


def input_gradient_loss(
    reduction: str,
    logits: Tensor,
    images: Tensor,
    regions: Tensor,
    targets: Any = None,
    *,
    where: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """Squares of the pixels' gradients outside."""
    gradients = gradients_of(logits, images, index_of(targets, logits, regions))
    full = regions if regions.dim() == 4 else regions[:, None]
    valid = reference.valid_targets(full.expand(-1, gradients.shape[1], -1, -1), None, where)
    dtype = torch.promote_types(images.dtype, torch.float32)
    squares = gradients.to(dtype).square().sum(2)
    value = torch.where(valid, ((1 - full.to(dtype)) * squares).sum((-2, -1)), 0)
    return _reduced(value, valid, reduction, normalizer)


def attention_loss(
    outputs: Any,
    labels: Tensor,
    images: Tensor | None = None,
    lambda_b: float = 1.0,
    lambda_m: float = 1.0,
    lambda_r: float = 4.0,
    lambda_1: float = 1e-5,
) -> list[Tensor]:
    """Kimura & Tanaka, eq. 6, and its parts."""
    count = max(len(labels), 1)

    def entropy(logits: Tensor) -> Tensor:
        y = labels.to(logits.dtype)
        return -(y * nnf.logsigmoid(logits) + (1 - y) * nnf.logsigmoid(-logits)).sum() / count

    parts = [(lambda_b, entropy(outputs.binary))]
    if outputs.multilabel is not None:
        parts.append((lambda_m, entropy(outputs.multilabel)))
    if outputs.reconstruction is not None and images is not None:
        parts.append((lambda_r, (outputs.reconstruction - images).square().mean()))
    parts.append((lambda_1, outputs.l1.sum() / count))
    total = sum(weight * part for weight, part in parts)
    return [torch.as_tensor(total), *(part for _, part in parts)]


# --- networks -------------------------------------------------------------------------------------


class Network(nn.Module):
    """A layer "map" and a head.

    Args:
        form: what the layer returns: "nchw", "tokens" or "nhwc".
        head: "flat", "mean" (of the cells), "two" linear layers, "tanh" or "in place" between two.
        pool: what follows the layer: "max", "average" or "none".
        sizes: channels, width of the head and classes.
        cells: height and width of images and maps.
    """

    def __init__(
        self, form: str, head: str, pool: str, sizes: tuple[int, int, int], cells: tuple[int, int]
    ) -> None:
        super().__init__()
        channels, width, classes = sizes
        self.form, self.classes, self.cells = form, classes, cells
        self.trunk = nn.Conv2d(2, channels, 1)
        self.map = nn.ReLU() if form == "nchw" else nn.Linear(channels, channels)
        pools = {"max": nn.MaxPool2d(3, 1, 1), "average": nn.AvgPool2d(1), "none": nn.Identity()}
        self.pool = pools[pool]
        features = channels * cells[0] * cells[1] if head == "flat" else channels
        layers: list[nn.Module] = [nn.Flatten()]
        if head != "flat":
            layers.insert(0, nn.AdaptiveAvgPool2d(1))
        between = {"two": nn.ReLU(), "tanh": nn.Tanh(), "in place": nn.ReLU(inplace=True)}
        if head in between:
            layers += [nn.Linear(features, width), between[head], nn.Linear(width, classes)]
        else:
            layers.append(nn.Linear(features, classes))
        self.head = nn.Sequential(*layers)
        self.seen = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        x = self.trunk(images)
        if self.form == "nchw":
            self.seen = self.map(x)
            return self.head(self.pool(self.seen))
        x = x.movedim(1, -1)
        self.seen = self.map(x.flatten(1, 2) if self.form == "tokens" else x)
        return self.head(self.as_map(self.seen))

    def as_map(self, seen: Tensor) -> Tensor:
        """[...,C,H,W] of what the layer returned, or of gradients there."""
        if self.form == "tokens":
            seen = seen.unflatten(-2, self.cells)
        return seen if self.form == "nchw" else seen.movedim(-1, -3)


def on_graph(net: Network, images: Tensor, twin: Any, *args: Any, **options: Any) -> Any:
    """A twin of logits and activations, of a forward of its own in place of the given ones, with a
    graph in any case."""
    with torch.enable_grad():
        logits = net(images)
        if net.form == "nchw":
            return twin(logits, net.seen, *args[2:], **options)
        # One leaf that both come from: what the twin differentiates at is the map.
        seen = net.as_map(net.seen)
        return twin(net.head(seen), seen, *args[2:], **options)


def maps_of(net: Network, images: Tensor, *args: Any, **options: Any) -> Tensor:
    """``grad_cam_maps`` of a network, which may not record a graph."""
    found: Tensor = on_graph(net, images, maps, *args, **options)
    return found if torch.is_grad_enabled() else found.detach()


def look(images: Tensor, model: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """The map that a tap of the layer "map" shows, and Grad-CAM of all scores there."""
    found = on_graph(model, images, maps, None, None, create_graph=True)
    return model.as_map(model.seen), found


# --- balance --------------------------------------------------------------------------------------


def in_calls(balance: Any, times: int, *args: Any) -> tuple[Tensor, Tensor]:
    """A balance called so many times with the same; its sum and its ratios."""
    for _ in range(times):
        total = balance(*args)
    return total, balance.ratio


def in_parts(balance: Any, times: int, *args: Any) -> tuple[Tensor, Tensor]:
    """A balance of a step of so many equal parts: the sum of one, and the ratios."""
    for _ in range(times):
        balance.gather(*args)
    balance.update()
    return balance.weighed(*args), balance.ratio


def _slopes(value: Tensor, places: list[Tensor]) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(place) for place in places]
    return list(torch.autograd.grad(
        value, places, retain_graph=True, allow_unused=True, materialize_grads=True
    ))  # fmt: skip


def balanced(
    pull: Any, net: Network, measures: bool, label_loss: Tensor, guidance: Any, tap: Any = None
) -> tuple[Tensor, Tensor]:
    """The sum and the ratios of one measurement, or of none: then the ratios are 0."""
    losses = [guidance] if tap is not None else [loss for loss, _ in guidance]
    weight = [m for m in net.modules() if isinstance(m, nn.Linear)][-1].weight
    total, ratios = label_loss, []
    for number, loss in enumerate(losses):
        ratio = torch.zeros(())
        if measures and loss.requires_grad:
            at, of_weight = _slopes(label_loss, [net.seen, weight])
            drawn_at, drawn_weight = _slopes(loss, [net.seen, weight])
            drawn = drawn_at.flatten(1).norm(dim=1) != 0
            new = at[drawn].norm() / drawn_at.norm()
            bound = 3 * of_weight.norm() / drawn_weight.norm()
            new = torch.minimum(new, bound) if bound.isfinite() else new
            ratio = new.float() if new.isfinite() else ratio
        ratios.append(ratio)
        weight_of = pull[number] if isinstance(pull, tuple) else pull
        total = total + weight_of * ratio.to(loss.dtype) * loss
    ratio = ratios[0] if len(ratios) == 1 else torch.stack(ratios)
    return total.to(label_loss.dtype), ratio
