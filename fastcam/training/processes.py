"""The processes of one run: those that torchrun started, or others that are started here."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import pickle
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed import TCPStore

from fastcam._util.stop import leave, undisturbed
from fastcam._util.workers import cpus, follow_parent

T = TypeVar("T")

# Images may be decoded for days before the first step.
_PATIENCE = timedelta(days=7)
_POLL = 0.05
# How long an error of ours may come before the end of the process that caused it is seen.
_NOTICE = 2.0
# Within how long the end of a process shows everywhere.
_ENDING = 0.3
_HOST = "127.0.0.1"
_THREADS = "OMP_NUM_THREADS"


class ProcessEndedError(ChildProcessError):
    """Another process of the run ended before it was over; the message says which and how."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them.

    rank: of this one among all. count: of all. local_rank, local_count: on this machine. group: of
    all, for what is agreed on between the hosts; None where there is one.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    group: Any = None

    @property
    def nodes(self) -> int:
        return self.count // self.local_count

    def first(self, do: Callable[[], T]) -> T:
        """What ``do`` returns in the first process, in all of them; the others wait for it.

        What it raises there is raised in all.
        """
        if self.count == 1:
            return do()
        if self.rank:
            got: list[Any] = [None]
            dist.broadcast_object_list(got, 0, self.group)
            value, error = got[0]
            if error is not None:
                raise error
            return value
        try:
            value = do()
        except Exception as error:
            dist.broadcast_object_list([(None, _sent(error))], 0, self.group)
            raise
        dist.broadcast_object_list([(value, None)], 0, self.group)
        return value

    def any(self, *values: bool) -> list[bool]:
        """Which of these hold in any of the processes; all of them call."""
        if self.count == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.uint8)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.group)
        return found.bool().tolist()

    def in_turn(self, do: Callable[[], T]) -> T:
        """What ``do`` returns in each process: in the first one before it is called in others."""
        found: list[T] = []
        self.first(lambda: found.append(do()))
        return found[0] if found else do()


def _sent(error: Exception) -> Exception:
    """An error as another process can raise it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of a kind that does not travel
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def launched() -> bool:
    """Whether torchrun, or what sets the same variables, started this process among others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this process is the first of its run, so that it speaks for all."""
    return not launched() or int(os.environ["RANK"]) == 0


def check_counts(devices: int, nodes: int) -> None:
    """Refuse processes that cannot be had.

    Raises:
        ValueError: torchrun started others than ``devices`` and ``nodes`` say, or there are several
            nodes and it started none.
    """
    if launched():
        found = _environment()
        asked, got = (devices, nodes), (found.local_count, found.nodes)
        if asked not in ((1, 1), got):
            raise ValueError(
                f"devices, nodes: expected {got[0]} and {got[1]}, as torchrun started the "
                f"processes, or neither, got {devices} and {nodes}"
            )
    elif nodes > 1:
        raise ValueError(
            f"nodes: expected 1 without torchrun, got {nodes}; start the same command on each "
            f"node with `torchrun --nnodes {nodes} --nproc-per-node {devices} --rdzv-backend c10d "
            "--rdzv-endpoint HOST:PORT -m fastcam …`"
        )


def _environment() -> Processes:
    """As the variables say that torchrun sets."""
    rank, count, local_rank = (int(os.environ[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Processes(rank, count, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", count)))


@contextmanager
def several(
    devices: int, cuda: bool, work: Callable[..., None], arguments: tuple[Any, ...]
) -> Iterator[Processes]:
    """The processes of a run, in each of them, with an initialised process group.

    Where torchrun started them it is their group. Otherwise ``devices`` − 1 more are started here,
    that call ``work``, which is to enter this context, too. They end with the run, and this one has
    the rank 0. With one device there are no others and no group.

    Args:
        devices: processes on this machine.
        cuda: whether each has a GPU, and they speak through NCCL; otherwise through Gloo.
        work: a function of a module, called with ``arguments``, which can be pickled.

    Raises:
        ValueError: there are not so many GPUs, or the arguments cannot be pickled.
        ProcessEndedError: one of them ended.
    """
    if cuda and devices > torch.cuda.device_count():
        raise ValueError(
            f"devices: expected at most {torch.cuda.device_count()}, the GPUs that this torch "
            f"sees, got {devices}"
        )
    if launched():
        with _group(_environment(), cuda, _met[0] if _met else None) as processes:
            yield processes
    elif devices == 1:
        yield Processes()
    else:
        with _started(devices, cuda, work, arguments) as processes:
            yield processes


@contextmanager
def _started(
    devices: int, cuda: bool, work: Callable[..., None], arguments: tuple[Any, ...]
) -> Iterator[Processes]:
    try:
        pickle.dumps(arguments)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"devices: {devices} processes need a loss and registered models that can be sent to "
            f"another one, got {error}; define them at the top level of a module, or start the "
            "processes with torchrun"
        ) from None
    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False, timeout=_PATIENCE)
    others: Any = None
    threads = torch.get_num_threads()
    try:
        with undisturbed():
            others = torch.multiprocessing.start_processes(
                _other, (devices, store.port, work, arguments), devices - 1, join=False
            )
        with _variables(_as_torchrun(0, devices, store.port)):
            keys = [_here(rank) for rank in range(1, devices)]
            while not store.check(keys):
                _look_at(others, _POLL)
            with _group(_environment(), cuda, store) as processes:
                try:
                    yield processes
                except RuntimeError as error:  # as when another one can no longer be reached
                    _look_at(others, _NOTICE, error)
                    raise
                while any(process.exitcode is None for process in others.processes):
                    _look_at(others, _POLL)
    finally:
        torch.set_num_threads(threads)
        started = zip(others.processes, others.error_files, strict=True) if others else ()
        for process, said in started:
            process.kill()  # it writes nothing
            process.join()
            Path(said).unlink(missing_ok=True)


def _look_at(others: Any, seconds: float, cause: Exception | None = None) -> None:
    """Say so if one of the others has ended.

    Raises:
        ProcessEndedError: it has.
    """
    deadline = time.monotonic() + seconds
    while True:
        for rank, process in enumerate(others.processes, 1):
            if process.exitcode or _error_of(others, rank):
                raise ProcessEndedError(_how_it_ended(others, rank)) from cause
        if time.monotonic() >= deadline:
            return
        time.sleep(min(_POLL, seconds))


def _how_it_ended(others: Any, rank: int) -> str:
    code = others.processes[rank - 1].exitcode or 0
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    if code == -signal.SIGKILL:
        how += ": killed, perhaps because memory was short"
    return (
        f"process {rank + 1} of {len(others.processes) + 1} ended ({_error_of(others, rank) or how}"
        "); the same call goes on where the run last saved"
    )


def _error_of(others: Any, rank: int) -> str:
    """The last line of what another process raised, if it did."""
    unfinished = (OSError, EOFError, pickle.UnpicklingError)
    with suppress(*unfinished), open(others.error_files[rank - 1], "rb") as file:
        return pickle.load(file).strip().splitlines()[-1]
    return ""


def _here(rank: int) -> str:
    return f"fastcam/here/{rank}"


# Where a process that was started here meets the others.
_met: list[TCPStore] = []


def _other(
    index: int, devices: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """One of the other processes."""
    follow_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first process saves with it, then kills it
    warnings.simplefilter("ignore")  # the first process says the same
    with _variables(_as_torchrun(index + 1, devices, port)):
        _met.append(TCPStore(_HOST, port, is_master=False, timeout=_PATIENCE))
        _met[0].set(_here(index + 1), "")
        try:
            work(*arguments)
        except Exception:
            # What the end of the first process made of this one, nobody reads.
            first: Any = multiprocessing.parent_process()
            first.join(_ENDING)
            if not first.is_alive():
                os._exit(1)
            raise
    # A thread of Gloo may yet have to release a tensor of the last exchange, which aborts a process
    # (signal 6) whose interpreter is ending.
    leave(0)


def _as_torchrun(rank: int, devices: int, port: int) -> dict[str, str]:
    values = {
        "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0,
        "WORLD_SIZE": devices, "LOCAL_WORLD_SIZE": devices,
        "MASTER_ADDR": _HOST, "MASTER_PORT": port,
    }  # fmt: skip
    if _THREADS not in os.environ:
        values[_THREADS] = max(1, cpus() // devices)
    return {name: str(value) for name, value in values.items()}


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """The environment with other values, and torch with the threads that it names."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    if _THREADS in values:
        torch.set_num_threads(int(values[_THREADS]))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# Of the groups that torchrun's processes have made, the same in all of them.
_number = itertools.count()


@contextmanager
def _group(found: Processes, cuda: bool, store: dist.Store | None) -> Iterator[Processes]:
    """With the process group initialised, if that has not been done before."""
    ours = not dist.is_initialized()
    if ours:
        if cuda:
            torch.cuda.set_device(found.local_rank)
        patience: dict[str, Any] = {} if cuda else {"timeout": _PATIENCE}
        if store is None:
            # A group that comes after another one would find that one's addresses: torch 2.10 names
            # both alike, and waits for ever.
            meeting, *_ = next(iter(dist.rendezvous("env://", **patience)))
            store = dist.PrefixStore(f"fastcam/{next(_number)}", meeting)
        dist.init_process_group(
            "nccl" if cuda else "gloo", rank=found.rank, world_size=found.count, store=store,
            **patience,
        )  # fmt: skip
    try:
        # A second group of Gloo beside a first one has been seen to wait for itself without end.
        agreed: Any = dist.group.WORLD
        if dist.get_backend() != "gloo":
            agreed = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield dataclasses.replace(found, group=agreed)
    except BaseException:
        # Another process that fails leaves its group by its end, when the first one can see why.
        ours = ours and not _met
        raise
    finally:
        if ours and dist.is_initialized():
            dist.destroy_process_group()
