"""What lies between the tapped layer and the logits in autograd's graph, node by node.

The graph is what autograd would differentiate, so a closed form that is read from it, values that
its nodes saved included, is the same function. Two things it does not show. Hooks on tensors: every
tensor on the way must have been seen at a module's border, where :class:`fastcam.cam.trace.Trace`
has kept it, and must carry none. Hooks on nodes: torch tells of them when one more is registered,
which is done only if somebody has registered any hook since the layer returned.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from fastcam.cam.hook_registry import own_handle
from fastcam.cam.layers import Step, averages, describe, kind_of
from fastcam.cam.trace import Call, KnownHead, Trace, is_hooked

__all__ = [
    "bypasses",
    "edge_of",
    "has_compiled_nodes",
    "has_python_nodes",
    "head_steps",
    "known_head_steps",
    "no_second_derivative",
    "only_pools",
    "path",
    "reached",
    "roles",
]

_POOLS = frozenset(
    {
        "AdaptiveAvgPool2DBackward0",
        "AdaptiveMaxPool2DBackward0",
        "AvgPool2DBackward0",
        "MaxPool2DWithIndicesBackward0",
        "MeanBackward1",  # AdaptiveAvgPool2d(1)
    }
)
_KINDS: dict[str, str] = {
    **dict.fromkeys(_POOLS, "pool"),
    "AddmmBackward0": "linear",
    "MmBackward0": "linear",
    "ReluBackward0": "relu",
    "MulBackward0": "dropout",
    "NativeDropoutBackward0": "dropout",
}
# What keeps the shape, and what keeps only values and row-major order.
_COPIES = frozenset({"AliasBackward0", "CloneBackward0", "ToCopyBackward0"})
_RESHAPES = frozenset(
    {
        "ReshapeAliasBackward0",
        "SqueezeBackward0",
        "SqueezeBackward1",
        "SqueezeBackward2",
        "UnsafeViewBackward0",
        "UnsqueezeBackward0",
        "ViewBackward0",
        "_DDPSinkBackward",  # DistributedDataParallel's identity around the outputs
    }
)
# What stands in for a backward that has no derivative of its own.
_UNDIFFERENTIABLE = frozenset({"torch::autograd::Error", "torch::autograd::NotImplemented"})
_LEAF = "torch::autograd::AccumulateGrad"


_Edge = tuple[Node | None, int]


def edge_of(tensor: Tensor) -> _Edge:
    """Where a gradient of the tensor would enter the graph."""
    if tensor.grad_fn is not None:
        return tensor.grad_fn, tensor.output_nr
    edge: GradientEdge | None = get_gradient_edge(tensor) if tensor.requires_grad else None
    return (None, 0) if edge is None else (edge.node, edge.output_nr)


def head_steps(trace: Trace, end: Tensor) -> list[Step] | str:
    """The nodes from the tapped layer to ``end``, in the order of the forward, or why not.

    Every node is a recognised one with no other way to anything but weights, every tensor between
    two of them was seen and carries no hook, and no node does.
    """
    layer = trace.layer.output
    borders = _Borders(trace)
    wrong = borders.unseen(end) or borders.unseen(layer)
    if wrong is not None:
        return wrong
    start, start_nr = edge_of(layer)
    node, nr = edge_of(end)
    steps: list[Step] = []
    user: Step | None = None  # the step that took what `node` made
    while node is not start or nr != start_nr:
        if node is None or node.name() == _LEAF:
            return f"the logits do not depend on '{trace.layer.name}' by way of the graph"
        try:
            step, after = _read(node, borders)
        except _Unusable as error:
            return str(error)
        if step is None or nr != 0:
            return _other_code(trace, borders, node, user)
        if borders.hooked_node(node):
            return f"the node of {step.what} in autograd's graph carries a hook"
        steps.append(step)
        user = step
        node, nr = after
        if node is start and nr == start_nr:
            break
        state = borders.seen.get(node) if node is not None else None
        if state is None:
            return _other_code(trace, borders, node, user)
        if state:
            return f"the input of {step.what} carries a hook, or has its own arithmetic"
    return steps[::-1]


# ---- a head that was recognised before -----------------------------------------------------------


def path(layer: Tensor, end: Tensor) -> list[Node] | None:
    """The nodes from ``end`` back to the layer, each by its data's edge; None if they lead past."""
    start, start_nr = edge_of(layer)
    node, nr = edge_of(end)
    nodes: list[Node] = []
    while node is not start or nr != start_nr:
        if node is None or nr != 0 or not node.next_functions or len(nodes) > _LONGEST:
            return None
        nodes.append(node)
        node, nr = node.next_functions[node.name() == "AddmmBackward0"]
    return nodes


_LONGEST = 200


def roles(nodes: list[Node], steps: list[Step]) -> list[tuple[str, str, str]]:
    """Each node's name, with its kind and words among the steps that :func:`head_steps` found."""
    by_node = {id(step.node): (step.kind, step.what) for step in steps}
    return [(node.name(), *by_node.get(id(node), ("", ""))) for node in nodes]


def known_head_steps(trace: Trace, end: Tensor) -> tuple[list[Step], KnownHead] | None:
    """The steps of a head of which one with the same nodes is known; None if there is none.

    Nodes between the layer and ``end`` have arisen since the layer returned; if nobody has
    registered a hook since, they and the tensors between them carry none.
    """
    layer = trace.layer.output
    if type(layer) is Tensor and type(end) is Tensor and trace.no_hook_since():
        for known in trace.known:
            try:
                steps = _as_before(known.roles, edge_of(layer), edge_of(end))
            except _Unusable:
                return None
            if steps is not None:
                return steps[::-1], known
    return None


def _as_before(roles: list[tuple[str, str, str]], start: _Edge, at: _Edge) -> list[Step] | None:
    steps = []
    node, nr = at
    for name, kind, what in roles:
        if node is None or nr != 0 or node.name() != name:
            return None
        edges = node.next_functions
        if kind:
            step = Step(kind, what, node=node)
            reader = _READERS.get(kind)
            if reader is not None and not reader(step, node, edges):
                return None
            steps.append(step)
        node, nr = edges[name == "AddmmBackward0"]
    return steps if node is start[0] and nr == start[1] else None


def only_pools(trace: Trace, end: Tensor) -> bool:
    """Whether only pooling and copies lead from the layer to ``end``, hooks apart."""
    start, _ = edge_of(trace.layer.output)
    node, _ = edge_of(end)
    while node is not start:
        if node is None or not (
            _pools(node)
            or node.name() in _COPIES
            or node.name() in ("AsStridedBackward1", "BackwardHookFunctionBackward")
        ):
            return False
        node = node.next_functions[0][0]
    return True


def bypasses(logits: Tensor, tensor: Tensor, point: Tensor) -> bool:
    """Whether the logits depend on ``tensor`` other than through ``point``.

    Walks from the logits and stops at ``point``, so it sees the head's nodes only, unless some path
    does lead around.
    """
    return edge_of(tensor)[0] in reached(logits.grad_fn, {edge_of(point)[0]})


def no_second_derivative(gradients: Tensor, logits: Tensor, point: Tensor) -> str | None:
    """Which operation between ``point`` and the logits torch cannot differentiate twice, if any.

    Args:
        gradients: of the logits with respect to ``point``, differentiable.

    Returns:
        Its name in torch (``"hardsigmoid"``), of an attention that of its node.
    """
    head = reached(logits.grad_fn, {edge_of(point)[0]})
    made = reached(gradients.grad_fn, {*head})
    lacking = next((node for node in made if node.name() in _UNDIFFERENTIABLE), None)
    if lacking is None:
        return None
    passed = between(logits.grad_fn, edge_of(point)[0])  # not a text tower beside the head
    attention = sorted(n.name() for n in passed if n.name().startswith("ScaledDotProduct"))
    return attention[0] if attention else _stands_for(lacking)


def _stands_for(lacking: Any) -> str:
    """Whose derivative is lacking: only the error that such a node raises says so."""
    try:
        lacking(*[None] * len(lacking._input_metadata))
    except Exception as error:
        named = re.search(r"aten::(\w+?)(_backward)? ", str(error))
        if named is not None:
            return named[1]
    return "an operation"


def has_compiled_nodes(logits: Tensor, point: Tensor) -> bool:
    """Whether ``torch.compile`` made something between ``point`` and the logits: a module compiled
    in place shows no wrapper, and a function no module."""
    head = between(logits.grad_fn, edge_of(point)[0])
    return any(node.name() == "CompiledFunctionBackward" for node in head)


def has_python_nodes(logits: Tensor, point: Tensor) -> bool:
    """Whether someone's own ``torch.autograd.Function`` lies between ``point`` and the logits.

    In a batched backward its Python sees tensors that say they need no gradient, and one that is
    ``once_differentiable`` then drops the graph without a word.
    """
    head = between(logits.grad_fn, edge_of(point)[0])
    return any(isinstance(node, BackwardCFunction) for node in head)


def reached(start: Node | None, walls: set[Node | None]) -> set[Node]:
    """The nodes that can be reached from ``start`` without passing through a wall."""
    seen: set[Node] = set()
    stack = [start]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen and node not in walls:
            seen.add(node)
            stack.extend(parent for parent, _ in node.next_functions)
    return seen


def between(start: Node | None, wall: Node | None) -> set[Node]:
    """The nodes on a way from ``start`` to ``wall``: those that a gradient at the wall passes.

    Not what a way around the wall leads to, as a transformer's residual does to all its blocks.
    """
    users: dict[Node | None, list[Node]] = {}
    for node in reached(start, {wall}):
        for parent, _ in node.next_functions:
            users.setdefault(parent, []).append(node)
    seen: set[Node] = set()
    stack = [wall]
    while stack:
        for user in users.get(stack.pop(), ()):
            if user not in seen:
                seen.add(user)
                stack.append(user)
    return seen


class _Borders:
    """The tensors that modules took and returned, by their nodes in the graph."""

    def __init__(self, trace: Trace) -> None:
        self.seen: dict[Node | None, bool] = {}  # of each node's output: does it carry a hook?
        self.made: dict[Node | None, Call] = {}
        self._quiet = trace.no_hook_since()
        for call in trace.calls:
            taken, output = call.taken, call.output
            if call.overwrites is not None:
                node, hooked = call.overwrites
                self.seen[node] = self.seen.get(node, False) or hooked
            elif taken is not None:
                self._see(taken)
            if output is not None:
                self.made.setdefault(call.node, call)
                if output.grad_fn is call.node:  # otherwise overwritten since
                    self._see(output)

    def _see(self, tensor: Tensor) -> None:
        hooked = type(tensor) is not Tensor or is_hooked(tensor)
        node = tensor.grad_fn
        self.seen[node] = self.seen.get(node, False) or hooked

    def unseen(self, tensor: Tensor) -> str | None:
        if type(tensor) is not Tensor:
            return f"a {type(tensor).__name__} may have its own arithmetic"
        if is_hooked(tensor):
            return "a hook is registered on the output of the layer, or on the logits"
        return None

    def hooked_node(self, node: Node) -> bool:
        return not self._quiet and _hooked_node(node)

    def input_node(self, call: Call) -> Node | None:
        if call.overwrites is not None:
            return call.overwrites[0]
        return call.taken.grad_fn if call.taken is not None else None


_NOTHING: tuple[None, _Edge] = None, (None, 0)


def _read(node: Node, borders: _Borders) -> tuple[Step | None, _Edge]:
    """What a node did, and the edge to its input; None if no closed form has such a node."""
    name = node.name()
    call = borders.made.get(node)
    edges = node.next_functions
    kind, pool = _KINDS.get(name), node
    if name == "AsStridedBackward1" and edges[0][0] is not None:
        # AdaptiveAvgPool2d(1) of a channels_last tensor: the mean, with its strides set.
        pool = edges[0][0]
        if pool.name() != "MeanBackward1" or borders.hooked_node(pool):
            return _NOTHING
        kind = "pool"
    if kind is None:
        return _read_reshape(node, name, edges, borders)
    if call is None or kind_of(call.module) != kind or call.taken is None:
        return _NOTHING
    step = Step(kind, describe(call.name, call.module), node=node)
    if not _READERS[kind](step, node, edges):
        return _NOTHING
    into = edges[0]
    if name == "AsStridedBackward1":
        into = pool.next_functions[0]
    elif name == "AddmmBackward0":
        into = edges[1]
    if kind == "linear":
        step.taken = tuple(call.taken.shape)
    taken = borders.input_node(call)
    if kind == "linear" and into[0] is not taken and into[0] is not None and _is_cast(into[0]):
        into = into[0].next_functions[0]  # autocast, within the module
    # The first module's input is the layer's output, which may be a leaf.
    if into[0] is not taken and not (taken is None and _is_leaf_of(into[0], call.taken)):
        return _NOTHING
    return step, into


def _read_reshape(
    node: Node, name: str, edges: Any, borders: _Borders
) -> tuple[Step | None, _Edge]:
    if len(edges) != 1:
        return _NOTHING
    if name in _COPIES:
        return Step("copy", name, node=node), edges[0]
    if name not in _RESHAPES:
        return _NOTHING
    inner = edges[0][0]
    if name == "UnsafeViewBackward0" and inner is not None and inner.name() == "CloneBackward0":
        # reshape() of what is not contiguous: one function, nothing within can be reached
        if borders.hooked_node(inner):
            return _NOTHING
        return Step("reshape", name, node=node), inner.next_functions[0]
    return Step("reshape", name, node=node), edges[0]


def _read_linear(step: Step, node: Any, edges: Any) -> bool:
    """addmm(bias, x, W.t()) or mm(x, W.t()), whose weight and bias are leaves or constants."""
    if len(edges) == 3 and (node._saved_alpha != 1 or not _is_constant(edges[0][0])):
        return False
    transposition, origin = edges[-1][0], None
    if transposition is not None:
        origin = transposition.next_functions[0][0]
        if transposition.name() != "TBackward0" or not _is_constant(origin):
            return False
    transposed = _saved(step, node, "mat2")
    if transposed is None:
        return False
    weight: Any = getattr(origin, "variable", None)
    if type(weight) is not nn.Parameter or not _is_same_memory(weight, transposed):
        weight = transposed.t()
    step.weight = weight
    step.taken = tuple(
        node._saved_mat1_sym_sizes if len(edges) == 3 else node._saved_self_sym_sizes
    )
    return True


def _is_same_memory(weight: Tensor, transposed: Tensor) -> bool:
    """Not if ``weight.data`` was set since, or the transposition is of a part of it."""
    return (
        weight.data_ptr() == transposed.data_ptr()
        and weight.dtype == transposed.dtype
        and weight.shape == transposed.shape[::-1]
        and weight.stride() == transposed.stride()[::-1]
    )


def _read_dropout(step: Step, node: Any, edges: Any) -> bool:
    """x * noise, or the fused form with a mask."""
    if len(edges) == 1:  # fused
        # Whether it was called for training is not kept; torch's dropout never calls it otherwise.
        mask = _saved(step, node, "result1")
        scale = 0.0 if node._saved_p == 1 else 1.0 / (1.0 - node._saved_p)
        dtype = node._input_metadata[0].dtype  # of the output: a mask and a number would be float32
        step.factor = None if mask is None else mask.to(dtype) * scale
    elif edges[1][0] is None:  # the factor is a constant
        step.factor = _saved(step, node, "other")
    return step.factor is not None


def _read_relu(step: Step, node: Any, edges: Any) -> bool:
    result = _saved(step, node, "result")
    step.factor = None if result is None else result <= 0
    return result is not None


def _read_pool(step: Step, node: Any, edges: Any) -> bool:
    return _pools(edges[0][0] if node.name() == "AsStridedBackward1" else node)


_READERS = {
    "linear": _read_linear,
    "dropout": _read_dropout,
    "relu": _read_relu,
    "pool": _read_pool,
}


class _Unusable(Exception):
    """What a node saved cannot be had; says why."""


def _saved(step: Step, node: Node, name: str) -> Tensor | None:
    """What a node saved; None if that is no plain tensor."""
    raw = getattr(node, "_raw_saved_" + name, None)
    if getattr(raw, "unpack_hook", None) is not None:
        raise _Unusable(
            f"what {step.what} saved is packed away by a hook (saved_tensors_hooks, or activation "
            "checkpointing, which would compute it again)"
        )
    try:
        value = getattr(node, "_saved_" + name, None)
    except RuntimeError:  # autograd would refuse, too
        what = "the weight of" if step.kind == "linear" else "what was saved by"
        raise _Unusable(f"{what} {step.what} changed after the forward") from None
    return value if type(value) is Tensor else None


def _is_cast(node: Node) -> bool:
    return node.name() == "ToCopyBackward0"


def _is_constant(node: Node | None) -> bool:
    """A leaf, its copy in autocast's type, or what needs no gradient."""
    if node is not None and _is_cast(node):
        node = node.next_functions[0][0]
    return node is None or node.name() == _LEAF


def _is_leaf_of(node: Node | None, tensor: Tensor | None) -> bool:
    return node is not None and getattr(node, "variable", None) is tensor


def _pools(node: Any) -> bool:
    """Whether each output's weights sum to one (max pooling has one weight, of 1)."""
    name = node.name()
    if name == "AvgPool2DBackward0":
        return averages(
            node._saved_padding, node._saved_count_include_pad, node._saved_divisor_override
        )
    if name == "MeanBackward1":
        shape = node._saved_self_sym_sizes
        dims = {dim if dim < 4 else dim - (1 << 64) + 4 for dim in node._saved_dim or ()}
        return len(shape) == 4 and dims == {2, 3} and node._saved_keepdim
    return name in _POOLS


def _nothing(*_: Any) -> None:
    return None


def _hooked_node(node: Node) -> bool:
    """Whether a hook was registered on the node itself; seen by registering two that do nothing."""
    found = 0
    for register in (node.register_prehook, node.register_hook):
        handle = own_handle(register, _nothing)
        hooks = handle.hooks_dict_ref()
        found += len(hooks) - 1
        del hooks[handle.id]
    return found > 0


def _other_code(trace: Trace, borders: _Borders, node: Node | None, user: Step | None) -> str:
    """Names what made something that no closed form knows."""
    call = borders.made.get(node)
    if call is not None:
        return (
            f"after '{trace.layer.name}' ran {describe(call.name, call.module)}, which is not, or "
            "not only, a layer of a closed form"
        )
    what = "" if node is None else f" ({node.name()})"
    if user is not None and user.kind not in ("copy", "reshape"):
        return (
            f"after '{trace.layer.name}' ran {user.what}, whose "
            "input is not the output of a module that was recognised before it (code outside of "
            f"modules changed it?{what})"
        )
    last = next((c for c in reversed(trace.calls) if c.output is not None), None)
    after = describe(last.name, last.module) if last else f"'{trace.layer.name}'"
    return (
        f"code outside of modules changed what {after} returned before it became the logits{what}"
    )
