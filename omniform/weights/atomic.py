"""A directory that appears whole or not at all.

It is written beside its destination under a hidden name, flushed to the disk, and renamed. A kill at any moment leaves
the old directory or the new one; what a killed writer left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

PARTIAL, OLD = ".partial", ".old"
AT_CWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """An empty directory to fill; it takes the place of `path` when the block ends without an exception.

    What stood at `path` before stays untouched until then and is never lost.

    Raises:
        NotADirectoryError: `path` is a file.
        OSError: the disk is full, or the parent cannot be written; nothing of the new directory stays behind.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{path} is a file; give the name of a directory to write")
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    partial, lock = _locked_sibling(target)
    try:
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                sync(Path(folder, name))
            sync(Path(folder))
        _put(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # what was never renamed, or what it replaced
        os.close(lock)


def recover(target: Path) -> None:
    """Finish what killed writers of `target` left: put back a directory that was being replaced, remove the rest."""
    target = Path(os.path.realpath(target))
    for old in sorted(target.parent.glob(f".{glob.escape(target.name)}.*{OLD}")):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    for partial in target.parent.glob(f".{glob.escape(target.name)}.*{PARTIAL}"):
        with contextlib.suppress(OSError):
            lock = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its writer lives
                shutil.rmtree(partial, ignore_errors=True)
            finally:
                os.close(lock)


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked_sibling(target: Path) -> tuple[Path, int]:
    """A new hidden directory beside `target`, and a lock on it that dies with this process."""
    while True:
        partial = target.parent / f".{target.name}.{secrets.token_hex(4)}{PARTIAL}"
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if partial.exists():  # else another writer took it for a dead one's before it was locked
            return partial, lock
        os.close(lock)


def _put(partial: Path, target: Path) -> None:
    """Rename; where something stands at `target`, swap the two in one step if the file system can."""
    if not target.exists():
        partial.rename(target)
    elif not _exchange(partial, target):
        old = partial.with_suffix(OLD)
        target.rename(old)
        try:
            partial.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync(target.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories atomically (Linux renameat2); False where that is not to be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        renameat2 = libc.renameat2
    except AttributeError:
        return False
    return renameat2(AT_CWD, os.fsencode(a), AT_CWD, os.fsencode(b), RENAME_EXCHANGE) == 0
