"""Weights that others have trained: files with a plain state dict, and what a new model takes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastcam._util.extras import require
from fastcam._util.torch_files import NotATorchFile, is_safetensors, read_torch_file

__all__ = ["is_file_name", "load_all", "load_trunk", "read_state", "state_misfit", "weights_in"]

_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".tar"})
# What modules keep besides tensors, as fastcam.Balance does.
_EXTRA = "_extra_state"
_COUNTER = "num_batches_tracked"
# Where other programs put a state dict among other things.
_KEYS = ("state_dict", "model_state_dict", "model", "state_dict_ema")


def is_file_name(text: str) -> bool:
    """Whether a text names a file of weights, and not weights by a name of their own."""
    path = Path(text)
    return path.suffix.lower() in _SUFFIXES or path.exists() or "/" in text


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of ``torch.save`` or safetensors; tensors alone are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else; the message says what.
        ImportError: a safetensors file, without safetensors.
    """
    if not path.exists():
        raise FileNotFoundError(f"weights file {path} does not exist")
    if path.is_file() and is_safetensors(path):
        safetensors: Any = require("safetensors.torch", extra="timm")
        try:
            return dict(safetensors.load_file(path))
        except Exception as error:  # of safetensors' own kind
            raise ValueError(f"{path} holds no weights: it is damaged ({error})") from None
    try:
        payload = read_torch_file(path)
    except NotATorchFile as error:
        raise ValueError(f"{path} holds no weights: it {error}") from None
    state = weights_in(payload)
    if state is None:
        raise ValueError(f"{path} holds no weights: it has no state dict of tensors")
    return state


def weights_in(payload: Any) -> dict[str, Tensor] | None:
    """The state dict that a file holds, alone or under a usual name; None without one."""
    if not isinstance(payload, Mapping):
        return None
    for candidate in (payload, *(payload.get(key) for key in _KEYS)):
        if (
            isinstance(candidate, Mapping)
            and candidate
            and all(isinstance(k, str) for k in candidate)
            and all(isinstance(v, Tensor) or k.endswith(_EXTRA) for k, v in candidate.items())
        ):
            return dict(candidate)
    return None


def state_misfit(module: nn.Module, state: Any) -> str | None:
    """In a few words why a state dict is not one of this module, or None where it fits."""
    if not isinstance(state, Mapping):
        return f"expected a state dict, got {type(state).__name__}"
    own = module.state_dict()
    for name, value in own.items():
        if name not in state:
            return f"{name} is missing"
        found = state[name]
        if not isinstance(value, Tensor):  # a module's extra state, which it checks itself
            continue
        if not isinstance(found, Tensor):
            return f"{name} is no tensor"
        if found.shape != value.shape:
            return f"{name} has shape {tuple(found.shape)}, expected {tuple(value.shape)}"
    extra = [name for name in state if name not in own]
    return f"{extra[0]} is unknown" if extra else None


class _Several(Exception):
    """The network's names stand in the file more than once, behind several beginnings."""


def load_all(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """Load every entry of a state dict that others wrote; or why it does not fit, in a few words.

    A beginning of the network's names (``module.`` of DistributedDataParallel, ``_orig_mod.`` of
    torch.compile, ``model.`` of Lightning) is dropped, and with it what does not have it: a
    loss's tensors, the counter of an average of weights. Counters of batch norms may lack.
    """
    try:
        state = _named_as(model, state, model.state_dict())
    except _Several as error:
        return str(error)
    misfit = state_misfit(model, state)
    if misfit is None:
        _load(model, state)
    return misfit


def load_trunk(
    model: nn.Module, state: Mapping[str, Tensor], head: Collection[str], source: object
) -> None:
    """Load all but the modules that give the logits, which stay as they are.

    Args:
        model: the network.
        state: a state dict of it, with any number of logits; names as :func:`load_all` takes them.
        head: names of those modules.
        source: what the weights came from, for the message.

    Raises:
        ValueError: the rest does not fit.
    """
    beginnings = tuple(f"{name}." for name in head)
    own = {k: v for k, v in model.state_dict().items() if k.startswith(beginnings)}
    trunk = [name for name in model.state_dict() if name not in own]
    try:
        state = _named_as(model, state, trunk)
        state = {k: v for k, v in state.items() if not k.startswith(beginnings)}
        misfit = state_misfit(model, {**state, **own})
    except _Several as error:
        misfit = str(error)
    if misfit is not None:
        what = type(model).__name__
        raise ValueError(f"{source} holds no weights for this {what}: {misfit}")
    _load(model, {**state, **own})


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what fits, as of the versions of modules that the model has: MNASNet asks for one."""
    versioned: Any = OrderedDict(state)
    versioned._metadata = getattr(model.state_dict(), "_metadata", None)
    model.load_state_dict(versioned)


def _named_as(
    model: nn.Module, state: Mapping[str, Tensor], needed: Iterable[str]
) -> dict[str, Tensor]:
    """The entries by the model's own names, with the model's own counters where they lack.

    Raises:
        _Several: several beginnings have all of the names ``needed``.
    """
    own = model.state_dict()
    found = dict(state)
    names = [name for name in needed if not name.endswith((_COUNTER, _EXTRA))]
    if names and not own.keys() & found.keys():
        ends = f".{names[0]}"
        beginnings = [name.removesuffix(names[0]) for name in found if name.endswith(ends)]
        fits = [b for b in beginnings if all(b + name in found for name in names)]
        if len(fits) > 1:
            raise _Several(f"it has {len(fits)} such networks ({', '.join(sorted(fits))})")
        if fits:
            chosen = {k: v for k, v in found.items() if k.startswith(fits[0])}
            found = {name.removeprefix(fits[0]): value for name, value in chosen.items()}
    while found and not own.keys() & found.keys():
        first = {name.partition(".")[0] for name in found}
        if len(first) > 1 or any("." not in name for name in found):
            break
        found = {name.partition(".")[2]: value for name, value in found.items()}
    counters = {k: v for k, v in own.items() if k.endswith(_COUNTER)}
    return {**counters, **found}
