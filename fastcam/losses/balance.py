"""``Balance``: a guidance loss that draws on the guided layer as strongly as the labels do."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastcam._util.modules import last_linear
from fastcam._util.tensors import versioned
from fastcam.cam.head_autograd import before_backward
from fastcam.cam.head_graph import edge_of
from fastcam.cam.head_processes import check_processes
from fastcam.cam.tap import ActivationTap
from fastcam.losses.reduce import Sync, WithGroup, world_size
from fastcam.ops import checks as check

__all__ = ["Balance"]

STRONG_PULL = 2.0
# A ratio may grow to this many times its first value: as a guidance loss converges its gradient
# vanishes, and an unbounded ratio would blow up what is left of it.
MAX_GROWTH = 10.0
# The guidance also reaches the head's weights, through Grad-CAM's channel weights and past the
# activations; there it may draw this many times as hard as the labels.
MAX_ON_WEIGHTS = 3.0
_HALF_SCALES = (2.0**20, 2.0**12, 2.0**6, 1.0)


class Balance(WithGroup, nn.Module):
    """Adds guidance losses to a label loss, each scaled to draw as hard as the labels do.

    ::

        balance = fastcam.Balance(pull=1.0)
        with fastcam.ActivationTap(model, "features.11", gradient_at="features.12") as tap:
            logits = model(images)
            guidance = criterion(logits, tap, regions, targets=36, where=labels[:, 36] > 0)
            loss = balance(bce(logits, labels), guidance, tap)
        loss.backward()

    The gradient of a map loss can be hundreds of times that of the labels or a thousandth of it,
    and changes as training goes on, so that no fixed weight is safe. For guidance loss j at the
    tapped activations A this measures ρ_j = ‖∂L_labels/∂A_V‖ / ‖∂L_j/∂A_V‖ and returns

        L_labels + Σ_j pull_j · ρ_j · L_j,    with ρ_j constant in the backward.

    V are the images that loss j draws on: those where its gradient is not zero everywhere, so that
    the pull on a rare attribute's few images follows what the labels do on these images. Scaling
    the label loss, a guidance loss or the activations leaves the direction of the update as it is.

    * ρ is measured in the first ``every`` calls and in every ``every``-th one after. A measurement
      moves it by half of the way (of its logarithm), and never above ten times its first value.
    * Guidance reaches the head's weights too, past the activations: each measurement of ρ, before
      it is smoothed, is cut so that ‖ρ_j·∂L_j/∂W‖ ≤ 3·‖∂L_labels/∂W‖ for W of the model's last
      linear layer (the last in ``model.modules()``; none, or a frozen one, sets no bound).
    * A measurement with no valid pair, a zero or a non-finite norm leaves ρ as it was, and so does
      a label loss that does not require grad. Before the first good one ρ is 0: there is no
      guidance yet (the first call on the CPU warns of such a loss).
    * A guidance loss that is NaN or infinite makes the sum so, and one whose gradient is, the
      gradient, whatever ρ is: what is wrong is to be seen. One of pull 0 is not added at all.
    * Under an initialised process group the norms are those of all processes' batches together;
      every process must call, with the same ``every``. Nothing waits for the device, float16
      activations excepted (their gradients are scaled up, as far as they stay finite).
    * Of a measurement no ``.grad`` is left, and hooks of parameters (``wandb.watch``) are not
      called; those of what the forward made, from the logits to the layer, see its gradients, too.
    * ``state_dict`` holds the ratios, as plain numbers: keep it out of a model that goes into
      safetensors files or timm's EMA, which take tensors alone. In evaluation
      (``balance.eval()``, or no gradients) the last ratios are used, and one process may call
      alone.

    A step of accumulated parts::

        if balance.due:
            for part in parts:  # forward alone, with the losses and the dropout of the step
                balance.gather(label_loss, guidance, tap)
        balance.update()
        for part in parts:
            balance.weighed(label_loss, guidance, tap).backward()

    is that of the whole batch to rounding, if both losses of a part are divided by the counts of
    the whole batch (``normalizer``): squares of norms are sums over images, and gradients at W sums
    over parts. What it costs is another forward, in the steps that measure. Calling it for each
    part as for a batch is another thing, and not exact: each call then counts as one of ``every``,
    measures its own part, and ρ may differ from part to part; the images' own ratios scatter, so
    that ρ does with few guided images a part.

    Args:
        pull: how hard guidance draws, relative to the labels; one number, or one for each guidance
            loss. 1 is as hard. Above 2 there is a warning: accuracy is at risk.
        every: calls between measurements; None measures never and keeps the ratios of a loaded
            state (a step captured in a CUDA graph uses 1 or None).
        sync: ``"global"`` measures over all processes of the group, ``"local"`` over this one.
        process_group: None for the default one; copies share it, and no file can hold it.

    Raises:
        TypeError, ValueError: an option is not one of those above.

    Source: fastcam's own; the losses it weighs are Yang et al. eq. 1 (w_a, w_g) and its kin.
    """

    def __init__(
        self,
        pull: float | Sequence[float] = 1.0,
        every: int | None = 8,
        *,
        sync: Sync = "global",
        process_group: Any = None,
    ) -> None:
        super().__init__()
        self.pull = tuple(pull) if isinstance(pull, Sequence) else pull
        self.every = every
        self.sync = sync
        self.process_group = process_group
        self._check_options()
        pulls = self._pulls()
        if max(pulls) > STRONG_PULL:
            warnings.warn(
                f"pull {max(pulls):g}: above {STRONG_PULL:g} guidance outweighs the labels, and "
                "accuracy may fall; compare with a control (pull 0)",
                stacklevel=2,
            )
        self.measured = False  # whether the last call did
        self._calls = 0
        self._ratios: list[Tensor] = []  # 0-d, on the device of its loss; 0: not measured yet
        self._first: list[Tensor] = []
        self._on_cpu = True  # the losses, and the ratios with them
        self._gathered: _Norms | None = None

    @property
    def ratio(self) -> Tensor:
        """ρ, detached: 0-d for one guidance loss, [J] for J of them; 0 before a measurement."""
        if len(self._ratios) == 1:
            return self._ratios[0].clone()
        return torch.stack(self._ratios) if self._ratios else torch.zeros(())

    def forward(
        self,
        label_loss: Tensor,
        guidance: Tensor | Sequence[tuple[Tensor, ActivationTap]],
        tap: ActivationTap | None = None,
    ) -> Tensor:
        """The sum to call ``backward`` on.

        Args:
            label_loss: scalar, in the graph of the taps' activations.
            guidance: a scalar guidance loss (its tap as the next argument), or a list of (loss,
                tap), always in the same order.
            tap: the entered tap of the one guidance loss.

        Returns:
            A scalar in the label loss's dtype.

        Raises:
            TypeError, ValueError: the arguments do not fit each other, or the label loss does not
                depend on the tapped activations.
        """
        terms = self._terms(label_loss, guidance, tap)
        self.measured = False
        if self.training and torch.is_grad_enabled():
            if label_loss.requires_grad:
                if self._is_due():
                    self._gather(label_loss, terms)
                self.update()
            elif self._calls == 0 and any(loss.requires_grad for loss, _ in terms):
                warnings.warn(
                    "label_loss does not require grad (of detached logits, or made under "
                    "torch.no_grad?): nothing is measured, and the guidance counts 0 times",
                    stacklevel=4,
                )
        return self._sum(label_loss, terms)

    @property
    def due(self) -> bool:
        """Whether the next step measures, so that its parts are to be gathered."""
        return self.training and torch.is_grad_enabled() and self._is_due()

    def gather(
        self,
        label_loss: Tensor,
        guidance: Tensor | Sequence[tuple[Tensor, ActivationTap]],
        tap: ActivationTap | None = None,
    ) -> None:
        """Add the norms of a part of the step's batch to those of the parts before.

        Args, Raises: as of a call; nothing is weighed.
        """
        self._gather(label_loss, self._terms(label_loss, guidance, tap))

    def update(self) -> None:
        """Count a step, and move ρ by what was gathered for it, if anything was.

        Under a process group every process calls it, and those that measure do so together.
        """
        self.measured = self._gathered is not None
        if self._gathered is not None:
            self._measure(self._gathered)
            self._gathered = None
        self._calls += 1

    def weighed(
        self,
        label_loss: Tensor,
        guidance: Tensor | Sequence[tuple[Tensor, ActivationTap]],
        tap: ActivationTap | None = None,
    ) -> Tensor:
        """The sum to call ``backward`` on with ρ as it is; nothing is measured or counted.

        Args, Returns, Raises: as of a call.
        """
        return self._sum(label_loss, self._terms(label_loss, guidance, tap))

    def extra_repr(self) -> str:
        return f"pull={self.pull}, every={self.every}, sync={self.sync!r}"

    def get_extra_state(self) -> dict[str, Any]:
        # Plain numbers: torch.distributed.checkpoint loads into what is there, and of tensors finds
        # no places in the empty lists of a new Balance.
        ratios, first = ([float(kept) for kept in both] for both in (self._ratios, self._first))
        return {"calls": self._calls, "ratios": ratios, "first": first, "on_cpu": self._on_cpu}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._calls = int(state["calls"])
        self._ratios, self._first = (
            [torch.as_tensor(kept, dtype=_precise()).clone() for kept in state[name]]
            for name in ("ratios", "first")
        )
        # The ratios may have been loaded to the CPU, and are to be asked as often as before.
        self._on_cpu = bool(state.get("on_cpu", True))

    def _terms(
        self, label_loss: Tensor, guidance: Any, tap: ActivationTap | None
    ) -> list[tuple[Tensor, ActivationTap]]:
        self._check_options()
        _check_scalar("label_loss", label_loss)
        if not isinstance(guidance, Iterable):
            raise TypeError(
                "guidance: expected a scalar tensor or a list of (loss, tap), "
                f"got {type(guidance).__name__}"
            )
        terms: list[Any] = [(guidance, tap)] if isinstance(guidance, Tensor) else list(guidance)
        if not terms:
            raise ValueError("guidance: expected at least one loss, got none")
        for term in terms:
            if not isinstance(term, Sequence) or len(term) != 2:
                raise TypeError("guidance: expected a scalar tensor or a list of (loss, tap)")
            _check_scalar("guidance", term[0])
            if not isinstance(term[1], ActivationTap):
                raise TypeError(f"tap: expected an ActivationTap, got {type(term[1]).__name__}")
        if not self._ratios:
            if self.every is None:
                warnings.warn(
                    "every=None never measures, and no ratios were loaded: the guidance counts 0 "
                    "times",
                    stacklevel=5,
                )
            for kept in (self._ratios, self._first):
                kept[:] = [torch.zeros((), dtype=_precise(), device=g.device) for g, _ in terms]
        if len(self._ratios) != len(terms):
            raise ValueError(
                f"guidance: expected {len(self._ratios)} losses as in the calls before, "
                f"got {len(terms)}"
            )
        self._on_cpu = all(loss.device.type == "cpu" for loss, _ in terms)
        for kept in (self._ratios, self._first):
            # Made or loaded in inference mode they could not be changed in place outside of it.
            kept[:] = [
                versioned(r.to(loss.device)) for r, (loss, _) in zip(kept, terms, strict=True)
            ]
        return [(loss, of) for loss, of in terms]

    def _sum(self, label_loss: Tensor, terms: list[tuple[Tensor, ActivationTap]]) -> Tensor:
        total = label_loss
        pulls = self._pulls()
        if not isinstance(self.pull, Sequence):
            pulls *= len(terms)
        if len(pulls) != len(terms):
            raise ValueError(
                f"pull: expected one number a guidance loss ({len(terms)}), got {pulls}"
            )
        for pull, ratio, (loss, _) in zip(pulls, self._ratios, terms, strict=True):
            if pull != 0:  # 0 times what is NaN or infinite is NaN, and a control has no part in it
                total = total + (pull * ratio).to(loss.dtype) * loss
        return total.to(label_loss.dtype)

    def _pulls(self) -> list[float]:
        return list(self.pull) if isinstance(self.pull, Sequence) else [self.pull]

    def _check_options(self) -> None:
        """In each call, as they may have been set since the last."""
        pulls = self._pulls()
        for value in pulls:
            check.number("pull", value, "finite and >= 0", lambda x: 0 <= x < math.inf)
        if not pulls:
            raise ValueError("pull: expected a number or one for each guidance loss, got none")
        if self.every is not None:
            check.number("every", self.every, "whole and >= 1", lambda x: x >= 1 and x == int(x))
        check.one_of("sync", self.sync, get_args(Sync))

    def _is_due(self) -> bool:
        if self.every is None:
            return False
        if self._calls < self.every or self._calls % self.every == 0:
            return True
        # Where looking costs no wait, a loss without a ratio is measured until it has one.
        return self._on_cpu and any(float(r) == 0 for r in self._ratios)

    def _gather(self, label_loss: Tensor, terms: list[tuple[Tensor, ActivationTap]]) -> None:
        losses, taps = zip(*terms, strict=True)
        with before_backward(taps, label_loss, *losses):
            norms = [_squared_norms(label_loss, loss, tap) for loss, tap in terms]
        part = _Norms(
            torch.stack([pair for pair, _ in norms]),
            [of_weight for _, of_weight in norms],
            [loss.detach() for loss, _ in terms],
            [tap.layer for _, tap in terms],
        )
        self._gathered = part if self._gathered is None else self._gathered.plus(part)

    def _measure(self, norms: _Norms) -> None:
        squares, weights = norms.squares, norms.weights
        if self.sync == "global" and world_size(self.process_group) > 1:
            # Of the activations each process has its own rows, of a weight its own share.
            dist.all_reduce(squares, group=self.process_group)
            for gradients in weights:
                if gradients is not None:
                    dist.all_reduce(gradients, group=self.process_group)
        for number, gradients in enumerate(weights):
            labels, guided, reached = squares[number].unbind()
            ratio, first = self._ratios[number], self._first[number]
            new = _updated(ratio, first, labels.sqrt(), guided.sqrt(), gradients, reached)
            # Looked at once: a step reads no value.
            first_call = self._calls == 0 and ratio.device.type == "cpu"
            if first_call and float(new[0]) == 0 and float(norms.losses[number]) != 0:
                found = float(labels), float(guided), float(norms.losses[number])
                _warn_unmeasured(number, norms.layers[number], *found)
            # In place: a captured CUDA graph finds its last ratios where it has left them.
            ratio.copy_(new[0])
            first.copy_(new[1])


@dataclass
class _Norms:
    """What a measurement of J losses takes of a batch, or of the parts of one.

    squares: [J, 3], labels and guidance, and above 0 where the labels reach the last linear layer's
    weight. weights: for each loss [2, ...], the gradients there; None: the model has none, which
    all processes have alike. losses: J scalars, their values. layers: their taps'.
    """

    squares: Tensor
    weights: list[Tensor | None]
    losses: list[Tensor]
    layers: list[str]

    def plus(self, other: _Norms) -> _Norms:
        pairs = zip(self.weights, other.weights, strict=True)
        weights = [None if a is None or b is None else a + b for a, b in pairs]
        losses = [a + b for a, b in zip(self.losses, other.losses, strict=True)]
        return _Norms(self.squares + other.squares, weights, losses, self.layers)


def _precise() -> torch.dtype:
    """Of the ratios, whose squares float16 would round to 0 where it is the default dtype."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def _warn_unmeasured(number: int, layer: str, labels: float, guided: float, loss: float) -> None:
    """Say which of the two squared norms, or that the loss, made no ratio."""
    if not math.isfinite(loss):
        why = (
            f"guidance loss {number} at '{layer}' is {loss:g}: it has no ratio, and makes the sum "
            "NaN unless its pull is 0"
        )
    elif guided == 0:
        why = (
            f"guidance loss {number} has no gradient at '{layer}' yet, so it does not count: its "
            "maps are all dead or of one cell, or it does not depend on the activations (an "
            "InputGradientLoss of a ReLU network's logits does not)"
        )
    elif labels == 0:
        why = (
            f"label_loss has no gradient at '{layer}' yet on the images that guidance loss {number}"
            " draws on, so this does not count: the label loss leaves these images out, or has "
            "nothing left to learn from them"
        )
    else:
        why = (
            f"the gradients of label_loss and of guidance loss {number} at '{layer}' have no ratio "
            "above 0 yet, so the guidance counts 0 times; a gradient that is NaN or infinite stays "
            "so in the sum's"
        )
    warnings.warn(why, stacklevel=7)  # of a module's call


def _check_scalar(name: str, loss: object) -> None:
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        got = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"{name}: expected a scalar floating-point tensor, got {got}")
    if loss.dim() != 0:
        raise ValueError(
            f"{name}: expected a scalar, got shape {list(loss.shape)}; reduce it first "
            "(reduction='mean')"
        )


def _updated(
    ratio: Tensor,
    first: Tensor,
    labels: Tensor,
    guided: Tensor,
    gradients: Tensor | None,
    reached: Tensor,
) -> tuple[Tensor, Tensor]:
    """The smoothed, bounded ratio and its first value after a measurement; 0-d, nothing waits."""
    measured = labels / guided
    if gradients is not None:
        on_labels, on_guidance = torch.linalg.vector_norm(gradients.flatten(1), dim=1).unbind()
        bound = MAX_ON_WEIGHTS * on_labels / on_guidance
        # Where labels or guidance do not reach the weights there is none.
        bounded = torch.isfinite(bound) & (reached > 0)
        measured = torch.where(bounded, torch.minimum(measured, bound), measured)
        finite = on_labels.isfinite() & on_guidance.isfinite()
        measured = torch.where(finite, measured, torch.nan)  # of a batch that has NaN elsewhere
    measured = measured.to(ratio.dtype)
    good = torch.isfinite(measured) & (measured > 0)
    new = ratio == 0
    # Half of the way, of the logarithm: one image's gradient can be a thousand times another's.
    smoothed = torch.where(new, measured, (ratio * measured).sqrt())
    first = torch.where(good & new, measured, first)
    changed = torch.minimum(smoothed, MAX_GROWTH * first)
    return torch.where(good, changed, ratio), first


def _squared_norms(
    label_loss: Tensor, loss: Tensor, tap: ActivationTap
) -> tuple[Tensor, Tensor | None]:
    """[3] as in :class:`_Norms`, of the images that ``loss`` draws on, and [2, ...] both losses'
    gradients at the last linear layer's weight (None: there is none)."""
    activations = tap.output
    weight = _last_linear_weight(tap.model)
    check_processes(label_loss, edge_of(activations)[0], "label_loss")
    of_labels, on_weight = _gradients(label_loss, activations, weight)
    if of_labels is None:
        raise ValueError(
            "label_loss: does not depend on the tapped activations; compute both losses from the "
            "tap's last forward, inside its with block"
        )
    of_guidance, guidance_on_weight = _gradients(loss, activations, weight)
    if of_guidance is None:
        of_guidance = torch.zeros_like(of_labels)
    labels, guided = (
        tap.by_image(gradient).flatten(1).square().sum(1) for gradient in (of_labels, of_guidance)
    )
    drawn = guided != 0
    reached = labels.new_full((), float(on_weight is not None))
    squares = torch.stack([torch.where(drawn, labels, 0).sum(), guided.sum(), reached])
    if weight is None:
        return squares, None
    # Zeros, as another process's losses may reach it, and all of them sum up.
    dtype = torch.promote_types(weight.dtype, torch.float32)
    home = activations.device if _is_divided(weight) else weight.device  # FSDP2 may offload it
    both = [
        torch.zeros(weight.shape, dtype=dtype, device=home) if g is None else _whole(g)
        for g in (on_weight, guidance_on_weight)
    ]
    return squares, torch.stack(both)


def _gradients(
    loss: Tensor, activations: Tensor, weight: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients at the activations and at a weight, float32 at least; None where there is none."""
    if not loss.requires_grad:
        return None, None
    at = [activations] if weight is None else [activations, weight]
    scales = _HALF_SCALES if activations.dtype == torch.float16 else (1.0,)
    found: list[Tensor | None] = []
    for scale in scales:  # a small float16 gradient would be flushed to zero
        with _unwatched(weight), _explained():
            grads = torch.autograd.grad(
                loss, at, torch.full_like(loss, scale), retain_graph=True, allow_unused=True
            )
        precise = [
            None if g is None else g.to(torch.promote_types(g.dtype, torch.float32)) / scale
            for g in grads
        ]
        found = [*precise, None][:2]
        if scale == scales[-1] or all(g is None or bool(g.isfinite().all()) for g in precise):
            break
    return found[0], found[1]


@contextmanager
def _explained() -> Iterator[None]:
    """What to do where a compiled part frees, in its first backward, what a second one needs."""
    try:
        yield
    except RuntimeError as error:
        if "donated buffer" not in str(error):
            raise
        raise ValueError(
            "label_loss, guidance: what torch.compile made of them goes through one backward "
            "alone, and Balance takes their gradients before the step's; leave the losses eager, "
            "or set torch._functorch.config.donated_buffer = False before they are compiled"
        ) from error


@contextmanager
def _unwatched(weight: Tensor | None) -> Iterator[None]:
    """Without the weight's own hooks, which would take a measurement for the step's gradient."""
    hooks: Any = None if weight is None else weight._backward_hooks
    kept = dict(hooks or {})
    if kept:
        hooks.clear()  # autograd looks into this very dict
    try:
        yield
    finally:
        if kept:
            hooks.update(kept)


def _is_divided(tensor: Tensor) -> bool:
    """Whether it is a DTensor: of a weight that processes have divided among them."""
    return hasattr(tensor, "full_tensor")


def _whole(gradient: Tensor) -> Tensor:
    """A gradient as each process has it, of a tensor-parallel layer too."""
    divided: Any = gradient
    return divided.full_tensor() if _is_divided(gradient) else gradient


def _last_linear_weight(model: nn.Module) -> Tensor | None:
    """Weight of the last linear layer, if it is trained."""
    layer = last_linear(model)
    weight = None if layer is None else layer._parameters.get("weight")
    return weight if weight is not None and weight.requires_grad else None
