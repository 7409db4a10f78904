"""What random heads are drawn from: layers, functions between them, hooks and regions."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn import functional as tf
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

Joint = Callable[[Tensor], Tensor]


class Reverse(torch.autograd.Function):
    """Identity, whose gradient is another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -0.5 * grad


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def negated(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else -0.7 * grad  # a hook may be given an undefined gradient


def with_tensor_hook(x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(negated)
    return x


def with_removed_hook(x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(negated).remove()
    return x


def with_node_prehook(x: Tensor) -> Tensor:
    if x.grad_fn is not None:
        x.grad_fn.register_prehook(lambda grads: tuple(negated(g) for g in grads))
    return x


def with_node_hook(x: Tensor) -> Tensor:
    if x.grad_fn is not None:
        x.grad_fn.register_hook(lambda into, _: tuple(negated(g) for g in into))
    return x


def hooked_then_overwritten(x: Tensor) -> Tensor:
    return with_tensor_hook(x).relu_()


def retained(x: Tensor) -> Tensor:
    if x.requires_grad and not x.is_leaf:
        x.retain_grad()
    return x


def without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 1


def halves(x: Tensor) -> Tensor:
    return x - x.detach() * 0.5


JOINTS: dict[str, Joint] = {
    "reverse": Reverse.apply,
    "tensor hook": with_tensor_hook,
    "removed hook": with_removed_hook,
    "node pre-hook": with_node_prehook,
    "node hook": with_node_hook,
    "hooked, then relu_": hooked_then_overwritten,
    "retain_grad": retained,
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "no_grad": without_grad,
    "half detached": halves,
    "times two": lambda x: x * 2,
    "times itself": lambda x: x * x.detach().sigmoid(),
    "mul_": lambda x: x.clone().mul_(2),
    "relu": tf.relu,
    "leaky relu": tf.leaky_relu,
    "clone": lambda x: x.clone(),
    "view_as": lambda x: x.view_as(x),
    "transposed twice": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "roll": lambda x: x.roll(1, 0),
    "mean added": lambda x: x + x.mean(0),
    "double and back": lambda x: x.double().to(x.dtype),
    "alias with a hook": lambda x: with_tensor_hook(x[:]),
    "chunks": lambda x: torch.cat(x.chunk(2, 0)),
    "dropout": lambda x: tf.dropout(x, 0.3),
    "dropout of nothing": lambda x: tf.dropout(x, 0.0),
}


def lossy() -> saved_tensors_hooks:
    return saved_tensors_hooks(
        lambda t: t.detach() * 1.25 if t.is_floating_point() else t, lambda t: t
    )


def forgetful(function: Joint, x: Tensor) -> Tensor:
    return checkpoint(function, x, use_reentrant=False)


def within(context: Callable[[], Any]) -> Callable[[Joint, Tensor], Tensor]:
    def run(function: Joint, x: Tensor) -> Tensor:
        with context():
            return function(x)

    return run


REGIONS: dict[str, Callable[[Joint, Tensor], Tensor]] = {
    "checkpoint": forgetful,
    "save_on_cpu": within(save_on_cpu),
    "lossy": within(lossy),
    "no_grad": within(torch.no_grad),
    "enable_grad": within(torch.enable_grad),
}


class Net(nn.Module):
    """A convolution and a head, with functions at its joints and a region around some layers."""

    def __init__(self, layer: nn.Module, head: list[nn.Module]) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.ModuleList(head)
        self.joints: dict[int, Joint] = {}
        self.region: tuple[int, int, str] | None = None
        self.flattened: int | None = None  # in front of which layer, by a function

    def forward(self, x: Tensor) -> Tensor:
        x = self.joint(0, self.layer(x))
        first, last, name = self.region or (0, 0, "")
        x = self.some(x, 0, first)
        if first < last:
            x = REGIONS[name](lambda y: self.some(y, first, last), x)
        return self.some(x, last, len(self.head))

    def some(self, x: Tensor, first: int, last: int) -> Tensor:
        for number in range(first, last):
            if number == self.flattened:
                x = x.flatten(1)
            x = self.joint(number + 1, self.head[number](x))
        return x

    def joint(self, number: int, x: Tensor) -> Tensor:
        return self.joints.get(number, lambda y: y)(x)


def draw_pool(rng: random.Random) -> nn.Module:
    return rng.choice(
        [
            lambda: nn.MaxPool2d(2, ceil_mode=True),
            lambda: nn.MaxPool2d(3, 2, 1),
            lambda: nn.AvgPool2d(2, ceil_mode=True),
            lambda: nn.AvgPool2d(3, 2, 1),
            lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            lambda: nn.AvgPool2d(2, 1, divisor_override=3, padding=1),
            lambda: nn.AdaptiveAvgPool2d(1),
            lambda: nn.AdaptiveAvgPool2d((2, 1)),
            lambda: nn.AdaptiveMaxPool2d(2),
            nn.Identity,
            nn.ReLU,
            lambda: nn.Conv2d(CHANNELS, CHANNELS, 1),
            lambda: nn.BatchNorm2d(CHANNELS),
            lambda: nn.Dropout(0.3),
            lambda: nn.Dropout2d(0.3),
        ]
    )()


CHANNELS = 3
BATCH = 3
WIDTH = 4
CLASSES = 3


def draw_between(rng: random.Random, odd: bool) -> list[nn.Module]:
    choice = rng.random()
    inplace = rng.random() < 0.4
    dropout = nn.Dropout(rng.choice([0.0, 0.3, 0.5, 1.0]), inplace=rng.random() < 0.2)
    if choice < 0.35:
        return [nn.ReLU(inplace)]
    if choice < 0.6:
        return [nn.ReLU(inplace), dropout]
    if choice < 0.7:
        return [dropout]
    if choice < 0.75:
        return [dropout, nn.ReLU(inplace), nn.Identity()]
    if choice < 0.85 or not odd:
        return []
    odd_ones = [nn.GELU, nn.Tanh, nn.AlphaDropout, nn.Softplus, lambda: nn.LayerNorm(WIDTH)]
    return [rng.choice(odd_ones)()]


def draw_linear(rng: random.Random, inputs: int, outputs: int, odd: bool) -> nn.Module:
    choice = rng.random() if odd else 1.0
    bias = rng.random() < 0.8
    if choice < 0.03:
        return Doubled(inputs, outputs)
    linear = nn.Linear(inputs, outputs, bias)
    if choice < 0.06:
        return nn.utils.parametrizations.weight_norm(linear)
    if choice < 0.09:
        return prune.random_unstructured(linear, "weight", 0.3)
    if choice < 0.12:
        linear.weight.requires_grad_(False)
    elif choice < 0.14:
        linear.weight.register_hook(negated)
    elif choice < 0.16:
        linear.forward = lambda x: tf.linear(x, linear.weight * 2)
    elif choice < 0.18:
        linear.forward = lambda x: torch.addmm(x.new_ones(()), x, linear.weight.t(), alpha=2)
    return linear


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward, looks": lambda m: m.register_forward_hook(lambda *_: None),
    "forward, doubles": lambda m: m.register_forward_hook(lambda m, a, out: 2 * out),
    "forward, hooks": lambda m: m.register_forward_hook(lambda m, a, out: with_tensor_hook(out)),
    "forward, node": lambda m: m.register_forward_hook(lambda m, a, out: with_node_hook(out)),
    "pre, doubles": lambda m: m.register_forward_pre_hook(lambda m, a: (2 * a[0],)),
    "pre, hooks": lambda m: m.register_forward_pre_hook(lambda m, a: (with_tensor_hook(a[0]),)),
    "backward": lambda m: m.register_full_backward_hook(
        lambda m, into, out: tuple(negated(g) for g in into)
    ),
    "backward pre": lambda m: m.register_full_backward_pre_hook(
        lambda m, out: tuple(negated(g) for g in out)
    ),
    "backward, legacy": lambda m: m.register_backward_hook(
        lambda m, into, out: tuple(negated(g) for g in into)
    ),
}
