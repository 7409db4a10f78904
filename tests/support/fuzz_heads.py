"""Random heads, by the closed form and by autograd.

Many of them: ``python tests/support/fuzz_heads.py --count 100000``.

A case is its seed: a small network whose head is drawn from the layers of a closed form, from
layers that have none, and from what people do to a network (functions, hooks, frozen or shared
weights, regions without gradients, recomputation, autocast, layers exchanged or hooked between two
steps). ``head="auto"`` must give the loss, the maps and every gradient of ``head="autograd"``, or
the same error.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from random_heads import (
    BATCH,
    CHANNELS,
    CLASSES,
    HOOKS,
    JOINTS,
    REGIONS,
    WIDTH,
    Net,
    draw_between,
    draw_linear,
    draw_pool,
)
from torch import Tensor, nn
from torch.nn import functional as tf
from torch.nn.modules import module as torch_module

from fastcam.cam.closed_form import ClosedForm
from fastcam.cam.maps import grad_cam_maps
from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import IoUCamLoss


class Case:
    """What a seed stands for."""

    def __init__(self, seed: int, dtype: torch.dtype | None = None) -> None:
        rng = self.rng = random.Random(seed)
        self.seed, self.notes = seed, []
        self.odd = rng.random() < 0.6
        self.dtype = torch.float32 if rng.random() < 0.2 else torch.float64
        self.autocast = self.odd and self.dtype == torch.float32 and rng.random() < 0.15
        if dtype is not None:
            self.dtype, self.autocast = dtype, False
        self.height, self.width = rng.randint(1, 5), rng.randint(2, 5)
        self.net = self._net()
        self.targets, self.regions, self.options = self._targets()
        self.training = rng.random() < 0.6
        self.weight_grad = "full" if rng.random() < 0.8 else "detach"
        pools = isinstance(self.net.head[0], (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d))
        self.gradient_at = "head.0" if pools and rng.random() < 0.4 else None
        self.plain = rng.random() < 0.8
        self.steps = rng.choice([1, 1, 2])
        self.late = rng.choice([None, "joint", "hook", "weight", "data", "global", "class"])
        if not self.odd or rng.random() < 0.5:
            self.late = None
        self.looks = rng.random() < 0.3  # at maps, too

    def _net(self) -> Net:
        rng, odd = self.rng, self.odd
        torch.default_generator.manual_seed(self.seed)
        layer: nn.Module = nn.Conv2d(2, CHANNELS, rng.choice([1, 3]), padding=1)
        if rng.random() < 0.6:
            layer = nn.Sequential(layer, nn.ReLU(rng.random() < 0.5))
        simple = [nn.MaxPool2d(2, 1, 1), nn.AdaptiveAvgPool2d((2, 2)), nn.AvgPool2d(2, 1)]
        head: list[nn.Module] = []
        x = torch.zeros(2, 2, self.height, self.width)
        for _ in range(rng.choice([0, 1, 1, 2])):
            pool = draw_pool(rng) if odd else rng.choice(simple)
            with contextlib.suppress(RuntimeError), torch.no_grad():  # it may be too small
                nn.Sequential(layer, *head, pool)(x)
                head.append(pool)
        if rng.random() < 0.3:
            head.append(nn.Dropout(rng.choice([0.2, 0.5, 1.0]), inplace=rng.random() < 0.2))
        with torch.no_grad():
            features = nn.Sequential(layer, *head)(x)[0].numel()
        flattened = None
        if rng.random() < 0.6:
            head.append(nn.Flatten())
        else:
            flattened = len(head)
        if rng.random() < 0.4:
            head.append(nn.Dropout(rng.choice([0.0, 0.3, 0.5]), inplace=rng.random() < 0.1))
        count = rng.choice([1, 2, 2, 3])
        for number in range(count):
            inputs = features if number == 0 else WIDTH
            outputs = CLASSES if number == count - 1 else WIDTH
            shared = number == 2 and inputs == outputs
            last = next((m for m in head if isinstance(m, nn.Linear)), None)
            head.append(last if shared and last else draw_linear(rng, inputs, outputs, odd))
            if number < count - 1:
                head += draw_between(rng, odd)
        if flattened is not None and flattened == len(head):
            flattened = None
        net = Net(layer, head).to(self.dtype)
        net.flattened = flattened
        if odd and rng.random() < 0.5:
            self._joint(net)
        if odd and rng.random() < 0.15:
            first = rng.randrange(len(head))
            name = rng.choice(list(REGIONS))
            net.region = first, rng.randint(first + 1, len(head)), name
            self.notes.append(f"{name} around {first}")
        if odd and rng.random() < 0.2:
            self._hook(net)
        if rng.random() < 0.1:
            net.layer.requires_grad_(False)
        return net

    def _joint(self, net: Net) -> None:
        name, place = self.rng.choice(list(JOINTS)), self.rng.randint(0, len(net.head))
        net.joints[place] = JOINTS[name]
        self.notes.append(f"{name} after {place - 1}")

    def _hook(self, net: Net) -> None:
        name = self.rng.choice(list(HOOKS))
        place = self.rng.randint(-2, len(net.head) - 1)
        module = net if place == -2 else net.layer if place == -1 else net.head[place]
        with contextlib.suppress(RuntimeError):  # legacy and full hooks do not go together
            HOOKS[name](module)
        self.notes.append(f"{name} hook on {place}")

    def _targets(self) -> tuple[Any, Tensor, dict[str, Any]]:
        rng = self.rng
        drawn = torch.Generator().manual_seed(self.seed)
        count = rng.randint(1, 3)
        form = rng.choice(["int", "each", "shared", "pairs", "all"])
        targets: Any = {
            "int": rng.randrange(CLASSES),
            "each": torch.randint(CLASSES, (BATCH,), generator=drawn),
            "shared": [rng.randrange(CLASSES) for _ in range(count)],
            "pairs": torch.randint(CLASSES, (BATCH, count), generator=drawn),
            "all": None,
        }[form]
        shape: tuple[int, ...] = {"int": (), "each": (), "all": (CLASSES,)}.get(form, (count,))
        height, width = rng.randint(1, 4), rng.randint(2, 4)
        with torch.no_grad():
            maps = self.net.layer(torch.zeros(1, 2, self.height, self.width, dtype=self.dtype))
        height, width = maps.shape[2:]
        regions = torch.rand(BATCH, *shape, height, width, generator=drawn, dtype=self.dtype)
        options: dict[str, Any] = {}
        if rng.random() < 0.4:
            pairs = (BATCH, shape[0] if shape else 1)
            options["where"] = torch.rand(pairs, generator=drawn) < 0.6
        if rng.random() < 0.1:
            regions[0] = 0
        self.notes.append(form)
        return targets, regions, options

    @contextlib.contextmanager
    def changed(self, step: int) -> Iterator[None]:
        """What happens to the network, or to all of torch, before the second step."""
        with contextlib.ExitStack() as stack:
            if step == 1 and self.late == "joint":
                self._joint(self.net)
            elif step == 1 and self.late == "hook":
                self._hook(self.net)
            elif self.late == "global":
                register = self.rng.choice(
                    [
                        lambda: torch_module.register_module_forward_hook(
                            lambda m, a, out: 1.5 * out if isinstance(m, nn.Linear) else None
                        ),
                        lambda: torch_module.register_module_full_backward_hook(
                            lambda m, into, out: (
                                tuple(g if g is None else -g for g in into)
                                if isinstance(m, nn.ReLU)
                                else None
                            )
                        ),
                    ]
                )
                stack.callback(register().remove)
            elif step == 1 and self.late == "class":
                for cls, new in (
                    (nn.ReLU, lambda m, x: tf.leaky_relu(x, 0.2)),
                    (nn.Linear, lambda m, x: tf.linear(x, m.weight, m.bias) + 0.1 * x.sum()),
                ):
                    stack.callback(setattr, cls, "forward", cls.forward)
                    cls.forward = new  # type: ignore[method-assign]
            yield

    def run(self, head: str) -> list[Any]:
        """The results of each step: loss, maps and gradients, or the error."""
        self.net.train(self.training)
        results: list[Any] = []
        for step in range(self.steps):
            with self.changed(step):
                torch.default_generator.manual_seed(self.seed + step)
                try:
                    results.append(self.step(head))
                except (ValueError, RuntimeError) as error:
                    results.append((type(error).__name__, str(error)[:60]))
        return results

    def step(self, head: str) -> list[Tensor]:
        net = self.net
        images = torch.randn(BATCH, 2, self.height, self.width, dtype=self.dtype)
        criterion = IoUCamLoss(sharpness=2.0, weight_grad=self.weight_grad, head=head)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=self.autocast),
            ActivationTap(net, "layer", self.gradient_at) as tap,
        ):
            logits = net(images)
            linear = next(m for m in net.head if isinstance(m, nn.Linear))
            if self.late == "weight":
                with torch.no_grad():
                    linear.weight.mul_(1.5)
            elif self.late == "data":
                linear.weight.data = linear.weight.data * -1.5
            loss = criterion(logits, tap, self.regions, self.targets, **self.options)
            maps = grad_cam_maps(logits, tap, None, head=head) if self.looks else loss
        total = loss + logits.square().mean() if self.plain else loss
        parameters = [p for p in net.parameters() if p.requires_grad]
        grads = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
        return [loss.detach(), maps.detach(), *grads]

    def tolerance(self) -> float:
        return 0.3 if self.autocast else 2e-3 if self.dtype == torch.float32 else 1e-7

    def __str__(self) -> str:
        head = ", ".join(type(m).__name__ for m in self.net.head)
        return f"seed {self.seed}: [{head}] {self.notes} late {self.late}, {self.dtype}"


def agree(got: Any, wanted: Any, tolerance: float) -> bool:
    """Whether loss, maps and gradients are the same but for rounding.

    A gradient in which everything cancels holds the rounding of the others' size.
    """
    if isinstance(got, tuple) or isinstance(wanted, tuple):
        return isinstance(got, tuple) and isinstance(wanted, tuple) and got[0] == wanted[0]
    largest = [b[b.isfinite()].abs().max().item() for b in wanted if b.isfinite().any()]
    least = max([0.1, *largest]) * 1e-2
    for a, b in zip(got, wanted, strict=True):
        finite = b.isfinite()
        if not torch.equal(a.isfinite(), finite):
            return False
        scale = b[finite].abs().max().clamp(min=least) if finite.any() else 1.0
        if ((a - b)[finite].abs() > tolerance * scale).any():
            return False
    return True


def check(
    seed: int, tally: Counter[str] | None = None, dtype: torch.dtype | None = None
) -> str | None:
    """None if both ways agree, otherwise what went wrong; counts what the case was."""
    taken = [0]
    plain = ClosedForm.gradients

    def counted(self: ClosedForm, *args: Any, **options: Any) -> Tensor:
        taken[0] += 1
        return plain(self, *args, **options)

    ClosedForm.gradients = counted  # type: ignore[method-assign]
    try:
        closed = Case(seed, dtype)
        got = closed.run("auto")
    except Exception as error:
        return f"crash: {type(error).__name__}: {error} seed {seed}"
    finally:
        ClosedForm.gradients = plain  # type: ignore[method-assign]
    # A network that nothing has changed since can serve again.
    wanted = (Case(seed, dtype) if closed.late else closed).run("autograd")
    if tally is not None:
        tally["closed" if taken[0] else "autograd"] += 1
        tally["errors"] += any(isinstance(result, tuple) for result in wanted)
    for step, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if not agree(a, b, closed.tolerance()):
            if closed.dtype == torch.float32 and dtype is None:
                # A map cell that is 0 but for rounding decides which cells a ReLU keeps. What is
                # really wrong is wrong in float64 too.
                if tally is not None:
                    tally["rounding"] += 1
                return check(seed, None, torch.float64)
            short = [
                r if isinstance(r, tuple) else [t.flatten()[:3].tolist() for t in r[:2]]
                for r in (a, b)
            ]
            return f"wrong in step {step}: {closed}: {short}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, help="first seed; goes on from there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tally: Counter[str] = Counter()
    wrong, began = 0, time.monotonic()
    for done, seed in enumerate(range(options.start, options.start + options.count), 1):
        said = check(seed, tally)
        if said is not None:
            wrong += 1
            print(said, flush=True)
        if done % 1000 == 0 or done == options.count:
            minutes = (time.monotonic() - began) / 60
            print(
                f"{done} heads from seed {options.start}: {wrong} wrong, {dict(tally)}, "
                f"{minutes:.1f} min",
                flush=True,
            )
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
