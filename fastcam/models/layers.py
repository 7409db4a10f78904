"""The layers of a classifier at which its Grad-CAM can be taken, and what a cell of each sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.overrides import TorchFunctionMode

from fastcam._util.modules import evaluating
from fastcam.cam.layout import Tokens, by_graph, by_kind, found_reader, nhwc
from fastcam.models.spec import ModelSpec, passing

__all__ = ["Layer", "layer_table"]

_Read = Callable[[Tensor], Tensor]  # from what a layer returns to its map

# Fields are looked for in images of up to this many times the side, or of this many pixels.
_LARGER, _LARGEST = 16, 4096


@dataclass(frozen=True)
class Layer:
    """A layer whose Grad-CAM can be taken, at one size of the images.

    Attributes:
        name: as in ``model.named_modules()``; the shortest one where several return the same.
        kind: its class.
        channels: C.
        grid: (h, w) cells.
        field: (height, width) in pixels of the part of an unbounded image that a cell depends on;
            None where it grows with the image, or cannot be measured.
        seen: (height, width) in pixels of the image that the cell in its middle depends on.
        default: whether it is the model's ``target_layer``.
        reshape: how a tap reads it: ``"tokens"``, ``"nhwc"``, ``"Tokens(…)"``, or None where it is
            [N,C,H,W].
    """

    name: str
    kind: str
    channels: int
    grid: tuple[int, int]
    field: tuple[int, int] | None
    seen: tuple[int, int]
    default: bool
    reshape: str | None = None


def layer_table(model: nn.Module, spec: ModelSpec, size: int) -> list[Layer]:
    """The layers that a tap can take, in the order in which they run.

    Those that return a map of more than one cell on which the logits depend, and which nothing
    overwrites in place: [N,C,H,W], [N,H,W,C], or the tokens of a vision transformer. Fields are
    measured: as the pixels at which the gradient of a central cell is not zero, in a run in which
    every convolution has positive weights, max pooling averages, and ReLUs and normalisations are
    left out (whose statistics, where they are taken over the image, are not counted). It holds for
    residual networks and any code between the modules.

    Args:
        model: of images [N,3,H,W]; its weights, mode and gradients stay as they are.
        spec: its registry entry.
        size: side of the images in pixels.

    Raises:
        ValueError: images of that size do not pass through the model.
    """
    found = _tappable(model, spec, size)
    readers = {name: read for name, (_, read) in found.items()}
    seen = _fields(model, readers, (size, size))
    fields: list[dict[str, int]] = [{}, {}]
    for axis in (0, 1):
        side, missing = size, readers
        while missing and side <= max(size, min(_LARGER * size, _LARGEST)):
            shape = (side, size) if axis == 0 else (size, side)
            for name, extent in _fields(model, missing, shape, unbounded=True).items():
                if not extent[axis].touches:
                    fields[axis][name] = extent[axis].length
            missing = {n: read for n, read in readers.items() if n not in fields[axis]}
            side *= 2
    layers = []
    for name, (output, read) in found.items():
        field = tuple(of_axis.get(name) for of_axis in fields)
        pixels = seen.get(name)
        layers.append(
            Layer(
                name=name,
                kind=type(model.get_submodule(name)).__name__,
                channels=output.shape[1],
                grid=(output.shape[2], output.shape[3]),
                field=None if None in field else field,  # type: ignore[arg-type]
                seen=(size, size) if pixels is None else (pixels[0].length, pixels[1].length),
                default=name == spec.target_layer,
                reshape=_said(read),
            )
        )
    return layers


def _as_it_is(output: Tensor) -> Tensor:
    return output


def _said(read: _Read) -> str | None:
    if isinstance(read, Tokens):
        return str(read)
    return None if read is _as_it_is else "nhwc" if read is nhwc else "tokens"


def _reader(module: nn.Module, output: Tensor, spec: ModelSpec) -> _Read | None:
    """How an output becomes a map, as far as that can be seen; None where it is none."""
    if output.dim() == 4:
        axis = by_graph(output) or by_kind(module)  # the shape would take attention for a map
        return _as_it_is if axis == 1 else found_reader(output, axis)
    read = spec.reshape if isinstance(spec.reshape, Tokens) else found_reader(output, None)
    try:
        return read if read is not None and read(output).dim() == 4 else None
    except ValueError:
        return None  # another number of tokens


def _tappable(model: nn.Module, spec: ModelSpec, size: int) -> dict[str, tuple[Tensor, _Read]]:
    """Maps by name, in a forward as it is, and how the layers' outputs become them."""
    device = next(model.parameters()).device
    image = torch.randn(1, 3, size, size, device=device, requires_grad=True)
    with passing((size, size)), evaluating(model), torch.enable_grad():
        outputs, logits = _outputs(model, image)
    raw: dict[str, Tensor] = {}
    readers: dict[str, _Read] = {}
    for name, (output, version) in outputs.items():
        whole = output.dim() in (3, 4) and len(output) == 1  # not windows in place of images
        if whole and output.requires_grad and output._version == version:
            read = _reader(model.get_submodule(name), output, spec)
            if read is not None and math.prod(read(output).shape[2:]) > 1:
                raw[name], readers[name] = output, read
    used = torch.autograd.grad(logits.sum(), list(raw.values()), allow_unused=True)
    names: dict[int, str] = {}
    for (name, output), gradient in zip(raw.items(), used, strict=True):
        known = names.get(id(output))
        shorter = known is None or (name.count("."), len(name)) < (known.count("."), len(known))
        own = name == spec.target_layer
        # Of a class token alone the image's tokens have a gradient that is zero.
        depends = gradient is not None and bool(readers[name](gradient).any())
        if depends and (own or (shorter and known != spec.target_layer)):
            names[id(output)] = name
    chosen = set(names.values())
    return {name: (read(raw[name]), read) for name, read in readers.items() if name in chosen}


def _outputs(model: nn.Module, image: Tensor) -> tuple[dict[str, tuple[Tensor, int]], Tensor]:
    """What each module returned last, with its version then; and the logits."""
    outputs: dict[str, tuple[Tensor, int]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, taken: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.pop(name, None)  # in the order of the last calls
                outputs[name] = output, output._version

        return hook

    handles = [
        module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name
    ]
    try:
        return outputs, model(image)
    finally:
        for handle in handles:
            handle.remove()


# ---- what a cell depends on ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Extent:
    length: int
    touches: bool  # the image's border, so that more of it might be seen in a larger one


def _fields(
    model: nn.Module, readers: Mapping[str, _Read], shape: tuple[int, int], unbounded: bool = False
) -> dict[str, tuple[_Extent, _Extent]]:
    """Height and width of what a central cell depends on; not of layers that cannot be measured.

    Adaptive pooling has windows that grow with the image: ``unbounded`` takes them to be all of it.
    """
    device = next(model.parameters()).device
    image = torch.ones(1, 3, *shape, dtype=torch.float64, device=device, requires_grad=True)
    kept: dict[str, Tensor] = {}
    handles = []
    for name in readers:
        module = model.get_submodule(name)
        hook = lambda _m, _i, output, name=name: kept.__setitem__(name, output)  # noqa: E731
        handles.append(module.register_forward_hook(hook))
    try:
        with evaluating(model), torch.enable_grad(), _Positive(unbounded):
            model(image)
    except (RuntimeError, ValueError, TypeError, AssertionError):
        pass  # what ran before can be measured still
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, raw in kept.items():
        try:
            output = readers[name](raw)
        except ValueError:  # a grid of tokens that is not square
            continue
        height, width = output.shape[-2:]
        (gradient,) = torch.autograd.grad(
            output[..., height // 2, width // 2].sum(), image, retain_graph=True, allow_unused=True
        )
        if gradient is not None:
            pixels = gradient[0].abs().sum(0) != 0
            found[name] = _extent(pixels.any(1)), _extent(pixels.any(0))
    return found


def _extent(line: Tensor) -> _Extent:
    places = line.nonzero().flatten().tolist()
    if not places:
        return _Extent(0, False)
    return _Extent(places[-1] - places[0] + 1, places[0] == 0 or places[-1] == len(line) - 1)


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _mixed(x: Tensor, axis: int, count: int) -> Tensor:
    """All channels as their mean: what each of them depends on, at the cost of one."""
    sizes = [-1] * x.dim()
    sizes[axis] = count
    return x.mean(axis, keepdim=True).expand(sizes)


def _conv2d(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    kernel = x.new_ones(1, 1, *weight.shape[2:]) / weight[0, 0].numel()
    x = nnf.conv2d(x.mean(-3, keepdim=True), kernel, None, stride, padding, dilation)
    return _mixed(x, -3, weight.shape[0])


def _linear(x: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    return _mixed(x, -1, weight.shape[0])


def _max_pool2d(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Tensor:  # fmt: skip
    if dilation not in (1, (1, 1), [1, 1]):
        raise ValueError("dilated pooling is not measured")
    return nnf.avg_pool2d(x, kernel_size, stride or None, padding, ceil_mode)


def _adaptive_max_pool2d(x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    return nnf.adaptive_avg_pool2d(x, output_size)


def _of_all(x: Tensor, output_size: Any, *_: Any, **__: Any) -> Tensor:
    mean = x.mean((-2, -1), keepdim=True)
    return mean.expand(nnf.adaptive_avg_pool2d(x, output_size).shape)


_NORMS = ("batch_norm", "group_norm", "instance_norm", "layer_norm")
_ELEMENTWISE = ("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "hardswish", "dropout")


def _replacements() -> Mapping[Any, Callable[..., Tensor]]:
    found: dict[Any, Callable[..., Tensor]] = {
        torch.conv2d: _conv2d,
        nnf.linear: _linear,
        torch.max_pool2d: _max_pool2d,
        nnf.max_pool2d: _max_pool2d,
        nnf.adaptive_max_pool2d: _adaptive_max_pool2d,
        torch.Tensor.add_: torch.add,
        torch.Tensor.__iadd__: torch.add,
        torch.Tensor.mul_: torch.mul,
        torch.Tensor.__imul__: torch.mul,
    }
    for name in (*_NORMS, *_ELEMENTWISE):
        for home in (nnf, torch, torch.Tensor):
            for each in (name, name + "_"):
                if hasattr(home, each):
                    found[getattr(home, each)] = _same
    return found


class _Positive(TorchFunctionMode):
    """Each operation gives way to one with positive slopes that depends on the same places."""

    def __init__(self, unbounded: bool) -> None:
        super().__init__()
        self._instead = dict(_replacements())
        if unbounded:
            for pooling in (nnf.adaptive_avg_pool2d, nnf.adaptive_max_pool2d):
                self._instead[pooling] = _of_all

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self._instead.get(func, func)(*args, **(kwargs or {}))
