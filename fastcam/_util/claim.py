"""One writer at a time: a lock of the operating system, which dies with its process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from fastcam._util.files import WriteError, make_folder, remove_leftovers

LOCK = ".fastcam.lock"

# How a file system without locks answers; on clusters some have none.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

_held: set[Path] = set()


def working() -> bool:
    """Whether this process is writing somewhere, so that an interrupt must leave in good order."""
    return bool(_held)


class InUseError(BlockingIOError):
    """Another process writes there; the message says which."""


@contextlib.contextmanager
def claim(target: str | Path, *, folder: bool = True) -> Iterator[None]:
    """Keep other runs of fastcam away from a folder, or from the files of one name, meanwhile.

    The lock is the system's (``flock``, through :mod:`filelock`, which torch brings along): it ends
    with the process, however that ends. The lock file is removed at the end, and so are folders
    that were made for it and stayed empty. Where the file system has no locks, a warning says that
    others are not kept away: a file in place of a lock would outlive a killed process.

    Args:
        target: a folder, which is made if missing; or a file, or the common beginning of several,
            whose lock lies beside it.
        folder: whether ``target`` is a folder.

    Raises:
        InUseError: another run holds it.
        WriteError: the lock file cannot be made.
    """
    from filelock import FileLock, Timeout

    target = Path(target)
    home = target if folder else target.parent
    made = [p for p in (home, *home.parents) if not p.exists()]
    path = home / (LOCK if folder else f".{target.name}.lock")
    try:
        make_folder(home)
        lock = FileLock(path, timeout=0)
        try:
            if _has_locks(home):
                lock.acquire()
            else:
                warnings.warn(
                    f"the file system of {home} has no locks: nothing keeps a second run from"
                    " writing there meanwhile",
                    stacklevel=3,
                )
        except Timeout:
            raise InUseError(
                f"{target} is being written by {_holder(path)}; wait for it, or name another place"
                " for the results"
            ) from None
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            text = f"cannot write in {home}: {why}"
            raise WriteError(error.errno or errno.EIO, text) from None
        try:
            _held.add(path)
            remove_leftovers(home)
            with contextlib.suppress(OSError):  # a full disk is told of by what is written next
                path.write_text(_describe(), encoding="utf-8", errors="backslashreplace")
            yield
        finally:
            remove_leftovers(home)  # of another machine, which were not old at the beginning
            with contextlib.suppress(OSError):
                path.unlink()  # while it is held: who waits for it sees that it has no name left
            lock.release()
            _held.discard(path)
    finally:
        for empty in made:
            try:
                empty.rmdir()
            except OSError:
                break


def _has_locks(folder: Path) -> bool:
    """Whether files in a folder can be locked; of other failures the lock itself tells."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    return True


def _describe() -> str:
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program == "__main__.py":
        program = "fastcam"
    words = shlex.join([program, *sys.argv[1:]])
    command = words if len(words) <= 120 else f"{words[:119]}…"
    began = datetime.now().strftime("%Y-%m-%d %H:%M")
    return f"process {os.getpid()} on {socket.gethostname()} since {began} ({command})"


def _holder(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        text = ""
    return text or "another process"
