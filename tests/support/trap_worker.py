"""One process of the tests of what breaks gradients silently over several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from networks import grids
from process_group import images, joined, network
from torch import Tensor, nn

from fastcam import ActivationTap, Balance, EnergyCamLoss, InputGradientLoss

WORLD = 2
SHARES = (3, 2)
STATIC = ("closed", "autograd", "balance", "input gradient")
RESHARD = (False, True)
PLANS = ("both", "last")  # which linear layers of the head are tensor-parallel
SHARDED = [(head, grad) for head in ("closed", "autograd") for grad in ("full", "detach")]


def batch() -> tuple[Tensor, Tensor, Tensor]:
    return images(5), grids(5, 2, 6, 6), grids(5, 1, 12, 12)


def label_loss(logits: Tensor) -> Tensor:
    """This process's part of a mean over all images."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    return logits.square().mean(1).sum() * world / 5


def loss_of(net: nn.Module, part: tuple[Tensor, ...], kind: str, grad: str = "full") -> Tensor:
    """A guided loss, or that of the labels alone."""
    images, regions, pixels = part
    prefix = "module." if isinstance(net, nn.parallel.DistributedDataParallel) else ""
    if kind == "input gradient":
        images = images.clone().requires_grad_()
        logits = net(images)
        return label_loss(logits) + InputGradientLoss()(logits.log_softmax(1), images, pixels, 0)
    with ActivationTap(net, f"{prefix}4", f"{prefix}5") as tap:
        labels = label_loss(logits := net(images))
        if kind == "labels":
            return labels
        if kind == "balance":
            return Balance()(labels, logits[:, 0].sum() + tap.activations.sum(), tap)
        criterion = EnergyCamLoss(head=kind, weight_grad=grad)
        return Balance()(labels, criterion(logits, tap, regions, [0, 1]), tap)


def gradients(net: nn.Module) -> list[Tensor]:
    found = [p.grad for p in net.parameters() if p.grad is not None]
    return [g.full_tensor() if hasattr(g, "full_tensor") else g.clone() for g in found]


def steps(
    net: nn.Module, part: tuple[Tensor, ...], *kinds: str, grad: str = "full",
    after: Callable[[], None] = lambda: None,
) -> list[list[Tensor]]:  # fmt: skip
    """The gradients of some steps without an update between them."""
    found = []
    for kind in kinds:
        net.zero_grad()
        loss_of(net, part, kind, grad).backward()
        after()
        found.append(gradients(net))
    return found


def accumulated(
    net: nn.Module, part: tuple[Tensor, ...], head: str, sharded: Sequence[Any] = (),
    after: Callable[[], None] = lambda: None,
) -> list[list[Tensor]]:  # fmt: skip
    """The gradients of two backwards that add up, with the weights kept whole between them, and of
    one after their update."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, foreach=False)
    found = []
    for number in range(3):
        for module in sharded:
            module.set_reshard_after_backward(number != 0)
        loss_of(net, part, head).backward()
        if number:
            after()
            found.append(gradients(net))
            optimizer.step()
            optimizer.zero_grad()
    return found


def with_compiled_trunk(part: tuple[Tensor, ...], parallel: bool) -> list[Tensor]:
    """The gradients of a balanced step; of several processes the trunk is compiled."""
    images, regions, _ = part
    net = network()
    trunk: Any = torch.compile(net[:5], backend="aot_eager") if parallel else net[:5]
    model = nn.Sequential(trunk, net[5:])
    run: nn.Module = nn.parallel.DistributedDataParallel(model) if parallel else model
    with ActivationTap(model, "0", "1.5") as tap:
        logits = run(images)
        criterion = EnergyCamLoss(head="closed")
        loss = criterion(logits, tap, regions, [0, 1])
        Balance()(label_loss(logits), loss, tap).backward()
    return gradients(model)


class Scaled(nn.Module):
    """Channels scaled by a linear layer of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x.mean((2, 3))).sigmoid()[:, :, None, None]


def convolutional() -> nn.Sequential:
    """A network whose only linear layer lies before the tapped layer, 4."""
    torch.manual_seed(0)
    trunk = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), Scaled(), nn.ReLU()
    head = nn.AvgPool2d(1), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*trunk, *head).double()


def tensor_parallel(mesh: Any, plan: str) -> nn.Module:
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor import parallel as tp

    first, last = tp.ColwiseParallel(), tp.RowwiseParallel()
    whole = tp.ColwiseParallel(output_layouts=Replicate())
    plans: dict[str, Any] = {"both": {"8": first, "11": last}, "last": {"11": whole}}
    net: Any = network()
    net[9].inplace = False  # which torch refuses of what a tensor-parallel layer returns
    return tp.parallelize_module(net, mesh, plans[plan])


def sharded_around(mesh: Any, part: tuple[Tensor, ...], former: bool, head: Any) -> str:
    """What is said where the tapped model lies in one that is sharded as a whole."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    net = network()
    if former:
        # On a CPU it has to be told so, where a machine has GPUs.
        cpu = torch.device("cpu")
        model: Any = FullyShardedDataParallel(net, device_id=cpu, use_orig_params=True)
    else:
        model = fully_shard(nn.Sequential(net), mesh=mesh)
    images, regions, _ = part
    with ActivationTap(net, "4", "5") as tap:
        logits = model(images)
        return refused(lambda: EnergyCamLoss(head=head)(logits, tap, regions, [0, 1]))


def sharded_around_activations(mesh: Any, part: tuple[Tensor, ...], grad: str) -> Any:
    """What is said of activations that are given as a tensor, or the gradients."""
    from torch.distributed.fsdp import fully_shard

    net: Any = Returning(network())
    if mesh is not None:
        fully_shard(net, mesh=mesh)
    images, regions, _ = part
    activations, logits = net(images)
    criterion = EnergyCamLoss(weight_grad=grad)
    if mesh is not None and grad == "full":
        return refused(lambda: criterion(logits, activations, regions, [0, 1]))
    (label_loss(logits) + criterion(logits, activations, regions, [0, 1])).backward()
    return gradients(net)


class Returning(nn.Module):
    """The activations with the logits."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.trunk, self.head = net[:5], net[5:]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        activations = self.trunk(x)
        return activations, self.head(activations)


def averaged(net: Any, world: int) -> None:
    """The gradients of a head that each process has as a whole."""
    for parameter in net[6:].parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= world


def refused(do: Callable[[], Any]) -> str:
    try:
        do()
    except ValueError as error:
        return str(error)
    return ""


def run(rank: int, world: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with joined(rank, world, folder) as found:
        part = tuple(t.split(SHARES)[rank] for t in batch())
        ddp = nn.parallel.DistributedDataParallel
        for kind in STATIC:
            static = ddp(network(), static_graph=True)
            found["static", kind] = refused(partial(loss_of, static, part, kind))
        static = ddp(network(), static_graph=True)
        found["later"] = steps(static, part, "labels", "closed", "autograd")

        mesh = init_device_mesh("cpu", (world,))
        for head, grad in SHARDED:
            net: Any = network()
            for number in (0, 3):  # all that has weights before the tapped layer
                fully_shard(net[number], mesh=mesh)

            average = partial(averaged, net, world)
            found["trunk", head, grad] = steps(net, part, head, head, grad=grad, after=average)
        for head in ("auto", "autograd"):
            net = network()
            net = nn.Sequential(*net[:6], ddp(net[6:]))  # which averages, in place of the user
            for number in (0, 3):
                fully_shard(net[number], mesh=mesh)
            found["head", head] = steps(net, part, head, head)
        found["compiled"] = with_compiled_trunk(part, parallel=True)
        for head in ("closed", "autograd"):
            net = network()
            trunk = [fully_shard(net[number], mesh=mesh) for number in (0, 3)]
            after = partial(averaged, net, world)
            found["accumulated", head] = accumulated(net, part, head, trunk, after)
        for name, reshard, (head, grad) in product(("whole", "layer"), RESHARD, SHARDED):
            net = network()
            root: Any = net if name == "whole" else net[8]
            fully_shard(root, mesh=mesh)
            root.set_reshard_after_backward(reshard)
            do = partial(loss_of, net, part, head, grad)
            found[name, reshard, head, grad] = refused(do)
        for former, head in product((False, True), ("closed", "autograd")):
            found["around", former, head] = sharded_around(mesh, part, former, head)
        for grad in ("full", "detach"):
            found["tensor", grad] = sharded_around_activations(mesh, part, grad)
        net = convolutional()
        for number in (0, 3):
            fully_shard(net[number], mesh=mesh)
        found["linear"] = steps(net, part, "auto", after=partial(averaged, net, world))
        for plan in PLANS:
            # Of a group of tensor-parallel processes each has the whole batch.
            net = tensor_parallel(mesh, plan)
            found["parallel", plan] = steps(net, batch(), "auto", grad="detach")
            for kind in ("auto", "input gradient"):
                found["twice", plan, kind] = refused(partial(loss_of, net, batch(), kind))
        for reshard in RESHARD:
            net = network()
            sharded: Any = fully_shard(net[0], mesh=mesh)
            sharded.set_reshard_after_backward(reshard)
            found["images", reshard] = refused(partial(loss_of, net, part, "input gradient"))
