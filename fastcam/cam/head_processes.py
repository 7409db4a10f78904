"""What processes do together in a head's backward, and must not be set off before it."""

from __future__ import annotations

import sys
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import Node

from fastcam.cam.head_graph import between
from fastcam.cam.tap import ActivationTap

__all__ = ["check_processes", "refuse_sharded_head"]

_SINK = "_DDPSinkBackward"  # DistributedDataParallel's identity around the outputs
_BATCH_NORM = "SyncBatchNormBackward"
# Where a DTensor of a tensor-parallel module begins and ends.
_DIVIDED = frozenset({"_FromTorchTensorBackward", "_ToTorchTensorBackward"})
_SHARDED = "RegisterPostBackwardFunctionBackward"  # fully_shard's, around what a module takes
_SHARD_LESS = (
    "; shard the modules before the layer alone, each by itself, keep the head whole in each "
    "process, and average its gradients"
)


def check_processes(
    end: Tensor, wall: Node | None, name: str = "logits", twice: bool = False
) -> None:
    """Refuse a graph that must not be differentiated before the backward.

    Args:
        end: where the differentiation begins, ``name`` in errors.
        wall: the node where it ends.
        twice: what comes of it is to be differentiated, too.

    Raises:
        ValueError: ``DistributedDataParallel(static_graph=True)`` would take it for its first
            backward, and average wrongly from then on; or a SyncBatchNorm lies between, whose
            backward speaks with all processes and has no second derivative; or a module of
            ``fully_shard``, which would take it for its backward, free its weights before the
            true one, or have no gradients from that; or, if ``twice``, a tensor-parallel module
            (``parallelize_module``), whose backward drops the graph of what it takes without a
            word, so that weights would be left without this loss's gradient.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    for node in between(end.grad_fn, wall):
        if node.name() == _BATCH_NORM:
            raise ValueError(
                f"{name}: a SyncBatchNorm lies behind the tapped layer, whose backward speaks with "
                "all processes; expected a head without one: convert the part before the layer "
                "alone (convert_sync_batchnorm of that module), or freeze it in eval mode"
            )
        if node.name() == _SHARDED:
            raise ValueError(
                f"{name}: a module that is sharded by fully_shard lies in what this loss "
                "differentiates before the backward (up to the tapped layer, or to the images), "
                "which would free its weights or leave it without gradients; for a loss of the map "
                "shard the modules before the layer alone, else use DistributedDataParallel"
            )
        if twice and node.name() in _DIVIDED:
            raise ValueError(
                f"{name}: a tensor-parallel module (DTensor) lies in what this loss differentiates "
                "twice (up to the tapped layer, or to the images), and torch drops the second "
                "derivative of such a module; expected a head that is whole in each process; for a "
                "loss of the map use weight_grad='detach', or divide the modules before the layer "
                "alone"
            )
        sink: Any = node
        if node.name() == _SINK and sink.ddp_weakref().static_graph:
            raise ValueError(
                f"{name}: DistributedDataParallel(static_graph=True) takes the gradients that this "
                "loss needs for the first backward, and averages wrongly from then on; leave "
                "static_graph out, or take the first step with the label loss alone"
            )


def refuse_sharded_head(tap: ActivationTap | None, logits: Tensor, twice: bool) -> None:
    """Refuse a head that ``fully_shard`` (FSDP2) has divided among processes.

    Its weights are there while they are used, and freed after the forward: a closed form would read
    what was there before, and the double backward what is there no more.

    Args:
        tap: of the forward; None where the activations were given as a tensor.
        logits: as the model returned them.
        twice: the head's gradient is to be differentiated.

    Raises:
        ValueError: a module behind the tapped layer, or one around it, is sharded; of one around
            the tapped model, or the activations, as the logits show, or of the former FSDP, if
            ``twice``.
    """
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if kind is None:  # then none can be
        return
    if tap is not None:
        for call in tap.trace.calls:
            _refuse_sharded_call(tap, call.name, kind)
    hooks: Any = logits._backward_hooks or {}
    if twice and any(_is_fsdp(hook) for hook in hooks.values()):
        raise ValueError(
            "logits: come out of a model that is sharded as a whole (fully_shard, or "
            "FullyShardedDataParallel), around the layer, so that its weights are freed after the "
            "forward" + _SHARD_LESS
        )


def _refuse_sharded_call(tap: ActivationTap, call: str, kind: type) -> None:
    parts = call.split(".")
    for end in range(len(parts) + 1):
        name = ".".join(parts[:end])
        if isinstance(tap.model.get_submodule(name), kind):
            what = f"'{name}'" if name else "the model"
            raise ValueError(
                f"logits: {what}, behind or around '{tap.layer}', is sharded by fully_shard, so "
                "that its weights are freed after the forward" + _SHARD_LESS
            )


def _is_fsdp(hook: Any) -> bool:
    """Whether it is the hook that FSDP, of either kind, leaves on what a module returns."""
    module = getattr(getattr(hook, "func", hook), "__module__", None)
    return isinstance(module, str) and module.startswith("torch.distributed.fsdp")
