"""Files and folders that appear whole or not at all.

A file is written under a temporary name in the folder of its target, flushed to the disk and renamed over
the target. A reader, and a process that is killed at any moment, sees the old file or the new one, never a
mixture. A killed process can leave its temporary file behind; :func:`sweep_stale` removes those.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tnet.errors import InputError

__all__ = ["atomic_write", "staged_directory", "sweep_stale"]

_SUFFIX = ".tnet-tmp"


def atomic_write(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write one file so that it is replaced whole or left as it was.

    Parameters
    ----------
    path : str or path
        The file to make or replace. A symbolic link is followed: the file behind it is replaced.
    write : callable
        Receives the temporary file, open for binary writing, and writes the content.

    Raises
    ------
    InputError
        The folder does not exist, or the path is a folder.
    OSError
        The disk is full or refuses; the old file is intact and the temporary file is gone.

    Notes
    -----
    The new file has the permissions of the one that it replaces, or those that the umask gives. If only the
    last step fails, the flush of the folder's own entry, the new file is in place but may not survive a loss
    of power; the ``OSError`` of that flush is raised.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InputError(f"{str(path)!r} is a folder: give the name of a file.")
    _require_folder(target.parent, path)
    temporary = _temporary_name(target)
    try:
        with contextlib.ExitStack() as files:
            # os.open, not mkstemp: the kernel applies the umask, where mkstemp would always give 0600.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                file = files.enter_context(os.fdopen(descriptor, "wb"))
            except BaseException:
                os.close(descriptor)
                raise
            write(file)
            file.flush()
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _flush_folder(target.parent)


@contextlib.contextmanager
def staged_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Build a folder under a temporary name and give it its own name last.

    Parameters
    ----------
    path : str or path
        The folder to make. It must not exist, not even empty.

    Yields
    ------
    pathlib.Path
        The temporary folder beside ``path``; put the files there.

    Raises
    ------
    InputError
        The target exists, or the folder around it does not.

    Notes
    -----
    When the ``with`` block ends every file is flushed to the disk and the folder is renamed. When the block
    raises, the temporary folder is removed with all that is in it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tnet.io import staged_directory
    >>> target = Path(tempfile.mkdtemp()) / "model"
    >>> with staged_directory(target) as folder:
    ...     _ = (folder / "config.json").write_text("{}")
    >>> [file.name for file in target.iterdir()]
    ['config.json']
    """
    target = Path(os.path.abspath(path))
    _refuse_existing(target)
    _require_folder(target.parent, path)
    temporary = _temporary_name(target)
    try:
        os.mkdir(temporary)
        yield temporary
        _flush_tree(temporary)
        # POSIX lets a rename replace an empty folder: look again, in case it was made meanwhile.
        _refuse_existing(target)
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush_folder(target.parent)


def sweep_stale(folder: str | os.PathLike[str], age: float = 86400.0) -> list[Path]:
    """Remove the temporary files and folders that killed processes left in a folder.

    Parameters
    ----------
    folder : str or path
        Where to look; folders inside it are not searched.
    age : float, default 86400
        Seconds since the last change; younger ones may belong to a process at work and stay.

    Returns
    -------
    list of pathlib.Path
        What was removed.
    """
    removed: list[Path] = []
    oldest_kept = time.time() - age
    for entry in sorted(Path(folder).glob(f".*{_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):
            if entry.lstat().st_mtime > oldest_kept:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            removed.append(entry)
    return removed


def _temporary_name(target: Path) -> Path:
    # 40 characters are at most 160 bytes, so the name stays below the 255 bytes that file systems allow.
    return target.parent / f".{target.name[:40]}.{secrets.token_hex(8)}{_SUFFIX}"


def _require_folder(folder: Path, path: str | os.PathLike[str]) -> None:
    if not folder.is_dir():
        raise InputError(f"cannot write {str(path)!r}: the folder {str(folder)!r} does not exist; make it first.")


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise InputError(f"{str(target)!r} exists and is never overwritten: remove it, or give another name.")


def _flush_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _flush_folder(Path(root))


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # pragma: no cover - Windows cannot open a folder, and needs no flush of it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
