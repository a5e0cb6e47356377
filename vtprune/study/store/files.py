"""Writing that survives a kill, a power cut and a full disk; locks that end with their process."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vtprune.study.store.errors import StoreError

TEMPORARY = ".tmp-"
"""How the name of a file begins that was being written when its process was killed; safe to delete."""

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file has reached the limit on file sizes (ulimit -f)",
}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError into a StoreError that names the file and the likely cause."""
    try:
        yield
    except OSError as error:
        cause = _FULL.get(error.errno or 0, f"{error.strerror or error}")
        raise StoreError(
            f"{path} cannot be written: {cause}. What was stored before is kept; make room (or repair the cause) and "
            f"run the study again, and it goes on from there"
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which becomes ``path`` at the end, whole and on disk, or not at all.

    Raises StoreError if it cannot be written.
    """
    with explained(path):
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with explained(path):
            yield temporary
            sync(temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write(path: Path, content: bytes) -> None:
    """Replace a file at once, on disk when this returns; raises StoreError if it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def append(path: Path, line: bytes, *, durable: bool = True) -> None:
    """Add one complete line; if that fails, cut the file back to what it was and raise StoreError.

    durable: wait until it is on disk.
    """
    with explained(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            try:
                left = memoryview(line)
                while left:  # once, but for a disk that fills up at this moment
                    left = left[os.write(handle, left) :]
                if durable:
                    os.fsync(handle)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
        if durable and not size:
            sync(path.parent)


def cut(path: Path, size: int, aside: Path | None = None) -> None:
    """Shorten a file to ``size`` bytes, after adding what is cut off to the file ``aside``; raises StoreError."""
    if aside is not None:
        with path.open("rb") as file:
            file.seek(size)
            append(aside, file.read())
    with explained(path), path.open("rb+") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(path: Path, *, wait: bool = False) -> int | None:
    """An open file that holds the lock until it is closed or the process ends; None if another one holds it.

    Raises StoreError on a system or a file system without `flock`.
    """
    try:
        import fcntl
    except ImportError as error:
        raise StoreError(
            "study folders need POSIX file locks, which this system does not have; on Windows, run vtprune in WSL"
        ) from error
    with explained(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        os.close(handle)
        raise StoreError(
            f"{path} cannot be locked: {error.strerror}. The file system does not seem to support flock; put the "
            f"study's folder on a local disk"
        ) from error
    return handle


def unlock(handle: int) -> None:
    """Release a lock, also where a forked child still has the file open."""
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
