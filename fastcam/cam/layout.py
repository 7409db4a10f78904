"""How the output of a layer is read as a map [N,C,H,W].

A convolution returns one. A vision transformer returns tokens [N,L,C] or [L,N,C], a Swin
transformer [N,H,W,C]; ``reshape`` says how those become a map. It selects and reorders elements and
does nothing else, so that the gradient of a score at the map is the reshaped gradient at the
output.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from fastcam.cam.trace import Trace

__all__ = [
    "MapReader",
    "Reshape",
    "Tokens",
    "by_graph",
    "by_kind",
    "by_shape",
    "channels_at",
    "found_reader",
    "nhwc",
]

#: From a layer's output to its map: a name of ``READERS``, "nchw", "auto", or a function.
Reshape = Callable[[Tensor], Tensor] | str


def nhwc(output: Tensor) -> Tensor:
    """[N,H,W,C] as [N,C,H,W]: a view."""
    if output.dim() != 4:
        raise ValueError(f"reshape: 'nhwc' reads [N,H,W,C], got shape {list(output.shape)}")
    return output.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Tokens:
    """Reads the tokens [N,L,C] of a vision transformer as a map [N,C,H,W]: a view.

    Attributes:
        height: H; None where the grid is square, or follows from ``width``.
        width: W; None likewise.
        prefix: how many tokens stand before those of the image: a class token, registers.
    """

    height: int | None = None
    width: int | None = None
    prefix: int = 1

    def __call__(self, output: Tensor) -> Tensor:
        """The map, C strided by 1.

        Raises:
            ValueError: the tokens do not make such a grid.
        """
        if output.dim() != 3:
            raise ValueError(
                f"reshape: {self} reads tokens [N,L,C], got shape {list(output.shape)}"
            )
        length = output.shape[1]
        count = length - self.prefix
        height, width = self.height, self.width
        if height is None and width is None:
            height = width = math.isqrt(max(count, 0))
        elif height is None or width is None:
            known = height or width or 1
            height, width = (known, count // known) if height else (count // known, known)
        if count < 1 or height * width != count or not 0 <= self.prefix < length:
            side = math.isqrt(length)
            raise ValueError(
                f"reshape: {self} does not fit {length} tokens (shape {list(output.shape)}); say "
                "how many rows and columns there are, and how many tokens stand before them: "
                f"reshape=fastcam.cam.Tokens(height, width, prefix) ({length} is {side} x {side} "
                f"and a prefix of {length - side * side})"
            )
        return output[:, self.prefix :].unflatten(1, (height, width)).permute(0, 3, 1, 2)


def tokens(output: Tensor) -> Tensor:
    """[N,HW,C] or [N,1+HW,C] of a square grid as [N,C,H,W]: a view."""
    side = math.isqrt(output.shape[1]) if output.dim() == 3 else 0
    return Tokens(prefix=int(side > 1 and output.shape[1] == side * side + 1))(output)


READERS: dict[str, Callable[[Tensor], Tensor]] = {"tokens": tokens, "nhwc": nhwc}
_NCHW, _AUTO = "nchw", "auto"


class MapReader:
    """Reads the outputs of one layer; remembers what it has found out of them.

    Args:
        reshape: None where the output is [N,C,H,W], which is then made sure of; "nchw" if it is
            without a look; "auto" for what it is seen to be; a name of ``READERS``; or a function
            from the output to [N,C,H,W].

    Raises:
        TypeError, ValueError: ``reshape`` is none of these.
    """

    def __init__(self, reshape: Reshape | None) -> None:
        if isinstance(reshape, str):
            known = [*READERS, _NCHW, _AUTO]
            if reshape not in known:
                names = ", ".join(map(repr, known))
                raise ValueError(
                    f"reshape: expected one of {names}, or a function, got {reshape!r}"
                )
        elif reshape is not None and not callable(reshape):
            raise TypeError(
                "reshape: expected a name or a function from the layer's output to [N,C,H,W], "
                f"got {type(reshape).__name__}"
            )
        self._given = reshape
        #: None where the output is the map.
        self.read: Callable[[Tensor], Tensor] | None = (
            READERS.get(reshape) if isinstance(reshape, str) else reshape
        )
        self._known = reshape == _NCHW
        self._images_at = 0  # which axis of the last output holds the images
        # Of an axis and the shape of the others: whether a function is found to read each image.
        self._fits: dict[tuple[int, tuple[int, ...]], bool] = {}

    def map_of(self, output: Tensor, trace: Trace, module: nn.Module) -> Tensor:
        """The output of a forward as [N,C,H,W], in its graph.

        Args:
            output: of the layer, floating-point.
            trace: of the forward.
            module: the layer.

        Raises:
            TypeError, ValueError: it is no map, or cannot be told to be one.
        """
        name = trace.layer.name
        if self._given == _AUTO and not self._known:
            self.read = found_reader(output, channels_at(trace, module))
            self._known = self.read is not None
        if self.read is None:
            if output.dim() != 4:
                raise ValueError(_no_map(name, output))
            if not self._known:
                self._check_axis(channels_at(trace, module), name, output)
            return output
        if self._given == "nhwc" and not self._known and output.dim() == 4:
            if by_graph(output) == 1:
                raise ValueError(
                    f"reshape: the output of '{name}', shape {list(output.shape)}, is [N,C,H,W], "
                    "not 'nhwc'; leave reshape out"
                )
            self._known = True
        # A graph where the layer's forward had one, whatever holds where the map is asked for.
        with torch.inference_mode(False), torch.set_grad_enabled(trace.layer.grad_enabled):
            return self._reshaped(output)

    def gradients(self, gradients: Tensor, like: Tensor) -> Tensor:
        """∂score/∂output [N,T,*] as ∂score/∂map [N,T,C,H,W].

        Args:
            gradients: at the layer's output; the targets are axis 1, whichever holds the images.
            like: the map [N,C,H,W], of that output.
        """
        if self.read is None:
            return gradients
        batch, targets = len(like), gradients.shape[1]
        if gradients.numel() == 0:
            return gradients.new_zeros(batch, targets, *like.shape[1:])
        axis = self._images_at  # the targets in front of it, as autograd made them
        rows = gradients.movedim(1, axis).flatten(axis, axis + 1)
        return self.read(rows).unflatten(0, (targets, batch)).transpose(0, 1)

    def by_image(self, gradient: Tensor) -> Tensor:
        """A gradient at the output of which the last map was made, its images in axis 0."""
        return gradient.movedim(self._images_at, 0)

    def _reshaped(self, output: Tensor) -> Tensor:
        assert self.read is not None
        result: Any = self.read(output)
        shape = tuple(output.shape)
        if not isinstance(result, Tensor) or result.dim() != 4 or len(result) not in shape[:2]:
            got = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"reshape: expected it to make [N,C,H,W] of {list(shape)}, with N images in its "
                f"first axis or its second, got {got}"
            )
        if callable(self._given) and not isinstance(self._given, Tokens):
            self._images_at = self._find_images(self.read, shape, len(result))
        return result

    def _find_images(
        self, read: Callable[[Tensor], Tensor], shape: tuple[int, ...], count: int
    ) -> int:
        """Which axis holds the ``count`` images, for a function of the user's."""
        axes = [axis for axis, size in enumerate(shape[:2]) if size == count]
        for axis in axes:
            key = axis, shape[:axis] + shape[axis + 1 :]
            if key not in self._fits:
                try:
                    self._fits[key] = _selects(read, *key)
                except Exception:  # of another axis' images it may make anything
                    if axis == axes[-1]:
                        raise
                    self._fits[key] = False
            if self._fits[key]:
                return axis
        raise ValueError(
            "reshape: expected a function that selects and reorders elements of each image, each "
            "at most once; this one changes, repeats or mixes them, and the map's gradient would "
            "be another"
        )

    def _check_axis(self, axis: int | None, name: str, output: Tensor) -> None:
        shape = list(output.shape)
        if axis == 3:
            raise ValueError(
                f"reshape: the output of '{name}', shape {shape}, has its channels last "
                "([N,H,W,C]), and Grad-CAM takes [N,C,H,W]; give reshape='nhwc', or "
                "reshape='nchw' if it is channels first all the same"
            )
        if axis != 1:
            raise ValueError(
                f"reshape: whether the output of '{name}', shape {shape}, is [N,C,H,W] or "
                "[N,H,W,C] cannot be told; give reshape='nchw', reshape='nhwc', or a function"
            )
        self._known = True


def _no_map(name: str, output: Tensor) -> str:
    text = f"layer: expected '{name}' to return a tensor [N,C,H,W], got shape {list(output.shape)}"
    if output.dim() == 3:
        text += (
            "; tokens [N,L,C] become a map with reshape='tokens' (a square grid, a class token "
            "before it or none) or reshape=fastcam.cam.Tokens(height, width, prefix)"
        )
    elif output.dim() > 3:
        text += (
            "; say with reshape= how it becomes one: a function of the output, of volumes "
            "[N,C,D,H,W] lambda output: output.flatten(2, 3)"
        )
    return text


def _selects(read: Callable[[Tensor], Tensor], axis: int, shape: tuple[int, ...]) -> bool:
    """Whether a function does nothing but select and reorder elements of each image, those being
    of this shape and stacked along the axis."""
    count = math.prod(shape)
    numbers = torch.arange(2.0 * count, dtype=torch.float64).view(2, *shape)
    with torch.no_grad():
        images = read(numbers.movedim(0, axis).contiguous())
    if len(images) != 2:
        return False
    first, second = images.flatten(1)
    whole = bool(((first >= 0) & (first < count) & (first == first.round())).all())
    return whole and len(first.unique()) == len(first) and torch.equal(second, first + count)


def found_reader(output: Tensor, axis: int | None) -> Callable[[Tensor], Tensor] | None:
    """What reads an output that is no [N,C,H,W], as far as that can be seen; None otherwise.

    Args:
        output: of a layer.
        axis: which one holds the channels, of four.
    """
    if output.dim() == 4:
        return nhwc if axis == 3 else None
    if output.dim() != 3:
        return None
    side = math.isqrt(output.shape[1])
    return tokens if side > 1 and output.shape[1] - side * side in (0, 1) else None


# ---- which axis holds the channels ---------------------------------------------------------------


def channels_at(trace: Trace, module: nn.Module) -> int | None:
    """The axis of a layer's output [N,·,·,·] that holds the channels; None where nothing tells.

    By what made the output, else by the layer's own kind, else by what took it next, else by its
    shape, as far as images are square.

    Args:
        trace: after the forward.
        module: the layer.
    """
    output = trace.layer.output
    if output.dim() != 4:
        return None
    seen = by_graph(output) or by_kind(_last(module)) or _by_user(trace, output)
    return by_shape(output) if seen is None else seen


def by_shape(output: Tensor) -> int | None:
    """Of square images: the axis that is not as long as the two others, which are."""
    _, first, second, third = output.shape
    if second == third != first:
        return 1
    return 3 if first == second != third else None


# What leaves the axes as they are.
_SAME = re.compile(
    r"(Add|Addcmul|Alias|BackwardHookFunction|Cat|Clamp(Max|Min)?|Clone|ConstantPadNd|Div|Elu|Gelu|"
    r"Hardsigmoid|Hardswish|Hardtanh|LeakyRelu|Mish|Mul|NativeDropout|Neg|Pow|PreluKernel|Relu|"
    r"Roll|Sigmoid|Silu|Slice|Softplus|Sub|Tanh|Threshold|ToCopy|Where)Backward\d*"
)
_CHANNELS_FIRST = re.compile(r"Conv|BatchNorm|GroupNorm|InstanceNorm|Pool2D|Pool2d|Upsample.*2D")
_PRODUCT = re.compile(r"(Addmm|Mm|Bmm|Linear)Backward")
_FARTHEST = 100


def by_graph(output: Tensor) -> int | None:
    """What the nearest operation before the output that tells says of its axes."""
    # For each axis of what a node made, the axis of the output that it has become.
    waiting: deque[tuple[Node | None, tuple[int, ...]]] = deque([(output.grad_fn, (0, 1, 2, 3))])
    seen: set[Node] = set()
    while waiting and len(seen) < _FARTHEST:
        node, axes = waiting.popleft()
        if node is None or node in seen or not _made_maps(node):
            continue
        seen.add(node)
        axis = _told_by(node)
        if axis is not None:
            return axes[axis]
        axes_of_input = _moved(node, axes)
        if axes_of_input is not None:
            waiting.extend((parent, axes_of_input) for parent, _ in node.next_functions)
    return None


def _made_maps(node: Node) -> bool:
    made: Any = getattr(node, "_input_metadata", ())
    return len(made) > 0 and len(made[0].shape) == 4


def _told_by(node: Any) -> int | None:
    """Which axis of [N,·,·,·] holds the channels, by the operation that made it."""
    name = node.name()
    if _CHANNELS_FIRST.search(name):
        return 1
    if "LayerNorm" in name or "RmsNorm" in name:
        return 3 if len(getattr(node, "_saved_normalized_shape", ())) == 1 else None
    product = node
    if name.startswith(("View", "UnsafeView", "ReshapeAlias")):  # a linear layer's, of [N,H,W,C]
        product = node.next_functions[0][0]
    if product is None or not _PRODUCT.match(product.name()):
        return None
    # Not the [N,C,HW] of an attention, seen as [N,C,H,W].
    return 3 if product._input_metadata[0].shape[-1] == node._input_metadata[0].shape[3] else None


def _moved(node: Any, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """``axes`` of a node's input; None where that cannot be followed."""
    name = node.name()
    if _SAME.fullmatch(name):
        return axes
    if name.startswith("Permute"):
        order = [_axis(dim) for dim in node._saved_dims]
    elif name.startswith("Transpose"):
        order = [0, 1, 2, 3]
        one, other = _axis(node._saved_dim0), _axis(node._saved_dim1)
        order[one], order[other] = other, one
    else:
        return None
    result = [0, 0, 0, 0]
    for made, taken in enumerate(order):
        result[taken] = axes[made]
    return tuple(result)


def _axis(dim: int) -> int:
    """An axis of four, of which a node may have saved a negative number as an unsigned one."""
    return (dim - (1 << 64) if dim > 4 else dim) % 4


_ELEMENTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Dropout, nn.Identity)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)


def _last(module: nn.Module) -> nn.Module:
    """What makes a layer's output: of a sequence its last module, but for those that act on single
    elements."""
    while isinstance(module, nn.Sequential):
        inside = [m for m in module if not isinstance(m, _ELEMENTWISE)]
        if not inside:
            break
        module = inside[-1]
    return module


def by_kind(module: nn.Module) -> int | None:
    """Where a layer of this kind has its channels, in what it takes as in what it returns."""
    if isinstance(module, (_ConvNd, _NormBase, nn.GroupNorm, *_POOLS)):
        return 1
    # Of subclasses there are such that take [N,C,H,W].
    if type(module) is nn.Linear:
        return 3
    return 3 if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1 else None


def _by_user(trace: Trace, output: Tensor) -> int | None:
    """By the first module that took the output, past those that act on single elements."""
    for call in trace.calls:
        taken = call.taken
        if taken is None or taken.shape != output.shape or taken.stride() != output.stride():
            return None
        if not isinstance(call.module, _ELEMENTWISE):
            return by_kind(call.module)
    return None
