"""Writing files: whole or not at all, never over a file of somebody else's."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fastcam._util.stop import undisturbed

#: Stands in pictures, pages and tables, so that a later run knows them for fastcam's.
MARK = "made by fastcam"
COMMENT = f"<!-- {MARK} -->"  # in Markdown and HTML

#: Names of the files that are being written.
LEFTOVERS = ".fastcam-*.tmp"
# Seconds for which nothing was written to such a file, and nothing will be.
_OLD = 600

Ours = Callable[[Path], bool]


class WriteError(OSError):
    """A file could not be written; the message names it and says why, ``errno`` is the system's."""

    def __str__(self) -> str:
        return str(self.strerror)


def cannot_write(path: str | Path, error: OSError, kept: bool = False) -> WriteError:
    """The error that says which file could not be written, and what became of the old one."""
    why = os.strerror(error.errno) if error.errno else str(error)
    rest = "; what was there before is kept" if kept else ""
    return WriteError(error.errno or errno.EIO, f"cannot write {path}: {why}{rest}")


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it, or say in one line why that cannot be.

    Raises:
        WriteError: a file is in the way, or the file system refuses.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        for part in (path, *path.parents):
            if part.exists() and not part.is_dir():
                text = f"cannot make the folder {path}: {part} is a file"
                raise WriteError(errno.ENOTDIR, text) from None
        raise
    except OSError as error:
        text = f"cannot make the folder {path}: {os.strerror(error.errno or errno.EIO)}"
        raise WriteError(error.errno, text) from None
    return path


def describe(error: BaseException) -> str:
    """What an error says, without the system's number and with the file first."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error, WriteError):
        names = [os.fsdecode(n) for n in (error.filename, error.filename2) if n is not None]
        return ": ".join([*names, error.strerror]) if names else str(error.strerror)
    return _in_worker(str(error))


def _in_worker(text: str) -> str:
    """What was raised in a worker of torch's loaders, which makes a message of its traceback."""
    if "Original Traceback (most recent call last)" not in text:
        return text
    _, _, said = text.strip().splitlines()[-1].partition(": ")
    return re.sub(r"^\[Errno \d+\] ", "", said) or text


# --- whose a file is ------------------------------------------------------------------------------


def any_file(path: Path) -> bool:
    """Every regular file may be replaced: in folders that hold nothing but fastcam's own."""
    return True


def marked(path: Path) -> bool:
    """Whether a picture or page bears fastcam's mark, near its beginning or its end."""
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(max(0, path.stat().st_size - 4096))
        return MARK.encode() in head + b"\0" + file.read()


def commented(path: Path) -> bool:
    """Whether a Markdown or HTML file ends with fastcam's comment."""
    return path.read_bytes().rstrip().endswith(COMMENT.encode())


def begins(text: str) -> Ours:
    """Whether a file begins with this text."""

    def check(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(text.encode())) == text.encode()

    return check


def json_with(*keys: str, each: bool = False) -> Ours:
    """Whether a file is a JSON object that has these keys, or whose every value has them."""

    def check(path: Path) -> bool:
        try:
            value = json.loads(path.read_bytes())
        except ValueError:
            return False
        values = list(value.values()) if each and isinstance(value, dict) else [value]
        return bool(values) and all(isinstance(v, dict) and set(keys) <= set(v) for v in values)

    return check


def check_target(path: str | Path, ours: Ours) -> None:
    """Refuse to write where a file lies that fastcam did not write, before the work is done.

    Args:
        path: what is going to be written.
        ours: whether the file that lies there is one of fastcam's of this kind.

    Raises:
        FileExistsError: another file lies there, or something that is no file.
        WriteError: it cannot be read to be told apart.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise cannot_write(path, error) from None
    if stat.S_ISDIR(mode):
        raise FileExistsError(f"{path} is a folder; name a file to write")
    if not stat.S_ISREG(mode):  # a device would be replaced by a file
        raise FileExistsError(f"{path} is no regular file; name another one to write")
    try:
        known = ours(path)
    except OSError as error:
        raise cannot_write(path, error, kept=True) from None
    if not known:
        raise FileExistsError(
            f"{path} was not written by fastcam and is left as it is; move it away or name another"
            " place for the results"
        )


def check_targets(prefix: str | Path, ours: Mapping[str, Ours]) -> None:
    """:func:`check_target` of a prefix with each suffix, before the work that will write there."""
    for suffix, known in ours.items():
        check_target(f"{prefix}{suffix}", known)


def remove_ours(folder: Path, ours: Mapping[str, Ours]) -> None:
    """Remove the files of these names that are fastcam's, and no other."""
    for name, check in ours.items():
        path = folder / name
        if path.is_file() and check(path):
            path.unlink()


# --- writing --------------------------------------------------------------------------------------


class _Raw(io.FileIO):
    """Remembers why a write failed: libraries answer with errors of their own."""

    failure: OSError | None = None

    def write(self, data: Any) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise

    def sync(self) -> None:
        try:
            os.fsync(self.fileno())
        except OSError as error:
            self.failure = error
            raise

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # network file systems tell of a full disk here
            self.failure = self.failure or error
            raise


def write_atomic(
    path: str | os.PathLike[str],
    write: Callable[[BinaryIO], object],
    *,
    ours: Ours = any_file,
    sync: bool = True,
) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it there in one step.

    A killed process or a full disk leaves the old file or none, never a half-written one.

    Args:
        path: the file; its folder is made if missing.
        write: called with the open binary file.
        ours: see :func:`check_target`.
        sync: wait until the data are on the disk, which is when some file systems first say that
            it is full; False where very many small files are written.

    Raises:
        FileExistsError: ``path`` is somebody else's, see :func:`check_target`.
        WriteError: the folder or the file cannot be written.
    """
    path = Path(path)
    check_target(path, ours)
    make_folder(path.parent)
    maker = f"{os.getpid()}-{uuid.uuid4().hex[:12]}-{socket.gethostname()}"
    temporary = path.with_name(f".fastcam-{maker}.tmp")
    try:
        _fill(temporary, write, sync)
        os.replace(temporary, path)
    except _WriteFailed as failed:
        raise cannot_write(path, failed.cause, kept=path.exists()) from None
    except OSError as error:
        if error.filename != os.fspath(temporary):  # of something that was read meanwhile
            raise
        raise cannot_write(path, error, kept=path.exists()) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


class _WriteFailed(Exception):
    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


def _fill(temporary: Path, write: Callable[[BinaryIO], object], sync: bool) -> None:
    raw = _Raw(os.fspath(temporary), "xb")
    try:
        try:
            file = io.BufferedWriter(raw, 1 << 18)
            with undisturbed():
                write(file)
            file.flush()
            if sync:
                raw.sync()
        finally:
            raw.close()
    except Exception:
        if raw.failure is not None:
            raise _WriteFailed(raw.failure) from None
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of :func:`write_atomic` in a folder whose process was killed.

    Of another machine's process that cannot be told: its file goes when it is old.
    """
    for path in folder.glob(LEFTOVERS):
        with contextlib.suppress(OSError, ValueError):
            _, number, _, *machine = path.stem.split("-", 3)
            written = path.stat().st_mtime
            if machine and machine != [socket.gethostname()]:
                gone = time.time() - written > _OLD
            else:
                gone = _gone(int(number), written)
            if gone:
                path.unlink()


def _gone(pid: int, written: float) -> bool:
    """Whether the process that wrote something then, on this machine, has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return _began(pid) > written + 1  # in a container that is started again numbers are the same


def _began(pid: int) -> float:
    """When a process began, in seconds of the clock (Linux); 0 where the system does not say."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


def write_text(path: str | Path, text: str, *, ours: Ours = any_file) -> Path:
    """Write a UTF-8 text file atomically.

    What is no Unicode (file names may hold any bytes) is written as an escape, which JSON reads
    back as it was.
    """
    data = text.encode("utf-8", errors="backslashreplace")
    return write_atomic(path, lambda file: file.write(data), ours=ours)


def write_marked(path: str | Path, text: str) -> Path:
    """Write a Markdown or HTML file that ends with fastcam's comment, see :func:`commented`."""
    return write_text(path, f"{text.rstrip()}\n\n{COMMENT}\n", ours=commented)


def write_json(path: str | Path, value: Any, *, ours: Ours = any_file) -> Path:
    """Write a JSON file atomically, indented."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", ours=ours)


def read_json(
    path: str | Path,
    what: str,
    keys: Iterable[str] = (),
    remedy: str = "remove it to have it made anew",
) -> dict[str, Any]:
    """Read a JSON object that fastcam wrote.

    Args:
        path: the file.
        what: what it should be, for the message.
        keys: that it must have.
        remedy: what to do about a damaged one, for the message.

    Raises:
        ValueError: the file is damaged or holds something else; the message names it.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except ValueError:
        value = None
    if not isinstance(value, Mapping) or not set(keys) <= set(value):
        raise ValueError(f"{path} is no {what}, or a damaged one; {remedy}")
    return dict(value)
