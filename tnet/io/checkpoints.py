"""Resumable jobs: a folder of finished parts, valid whenever the job is killed."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tnet.arrays import Array
from tnet.errors import FormatError, InputError
from tnet.io.atomic import atomic_write, sweep_stale
from tnet.io.digests import tensor_digest
from tnet.io.safetensors_reader import Library, read_sealed, verify_sealed
from tnet.io.safetensors_writer import write_safetensors
from tnet.io.strict_json import canonical_json, parse_json

__all__ = ["Checkpoint", "open_checkpoint"]

_JOB = "job.json"
_FORMAT_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
_STALE_SECONDS = 3600.0


def open_checkpoint(directory: str | os.PathLike[str], key: Mapping[str, Any]) -> Checkpoint:
    """Begin a job in a new folder, or go on with the one whose folder this is.

    Parameters
    ----------
    directory : str or path
        The folder of the job; the folder around it must exist.
    key : mapping of str to JSON value
        Everything that the parts depend on: options, hashes of the inputs. A job is only continued under
        an equal key.

    Returns
    -------
    Checkpoint

    Raises
    ------
    InputError
        The folder belongs to a job with another key (the message names the entries that differ), or holds
        files that are no checkpoint, or the key is no JSON.
    FormatError
        ``job.json`` is damaged, or of a version that this tnet does not read.

    Notes
    -----
    Parts are written atomically and sealed by digests, so the job may be killed at any moment. Two processes
    must not run one job at the same time: nothing breaks, but the work is done twice.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from tnet.io import open_checkpoint
    >>> folder = tempfile.mkdtemp() + "/job"
    >>> job = open_checkpoint(folder, {"ratio": 0.8})
    >>> job.save_tensors("layer.0", {"w": np.ones(3)})
    >>> again = open_checkpoint(folder, {"ratio": 0.8})
    >>> again.has("layer.0"), again.has("layer.1")
    (True, False)
    """
    folder = Path(directory)
    wanted = _normalised(key)
    if not folder.exists():
        if not folder.absolute().parent.is_dir():
            raise InputError(f"checkpoint {str(folder)!r}: the folder around it does not exist; make it first.")
        folder.mkdir(exist_ok=True)
    if not folder.is_dir():
        raise InputError(f"checkpoint {str(folder)!r} is a file: give the name of a folder.")
    sweep_stale(folder, _STALE_SECONDS)
    job = folder / _JOB
    if job.exists():
        _require_same(folder, _read_job(job), wanted)
    elif any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise InputError(f"checkpoint {str(folder)!r} holds files but no {_JOB}: give a new or empty folder.")
    else:
        _write_json(job, {"format_version": _FORMAT_VERSION, "key": wanted})
    return Checkpoint(folder)


class Checkpoint:
    """The parts of a job that are done.

    Made by :func:`open_checkpoint`. A part is named by letters, digits, ``_``, ``-`` and ``.``, and holds
    named tensors, a JSON value, or one of each.

    Parameters
    ----------
    directory : pathlib.Path
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.directory)!r}, {len(self.names)} parts)"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts that were saved, sorted; whether they are whole is not looked at."""
        files = (p for p in self.directory.iterdir() if p.suffix in (".json", ".safetensors") and p.name != _JOB)
        return tuple(sorted({p.stem for p in files if not p.name.startswith(".")}))

    def has(self, name: str) -> bool:
        """Return whether a part is there and whole.

        All its bytes are read and compared with their digest. A damaged part is removed with a warning: it
        counts as missing and is to be done again.
        """
        whole = False
        for path, verify in ((self._tensors(name), verify_sealed), (self._json(name), _read_json)):
            if not path.exists():
                continue
            try:
                verify(path)
                whole = True
            except FormatError as error:
                path.unlink(missing_ok=True)
                warnings.warn(f"checkpoint part {name!r} is damaged and will be done again: {error}", stacklevel=2)
                return False
        return whole

    def save_tensors(
        self, name: str, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write the tensors of a part atomically; see :func:`tnet.io.write_safetensors`."""
        write_safetensors(self._tensors(name), tensors, metadata)

    def load_tensors(self, name: str, *, library: Library = "numpy") -> tuple[dict[str, Array], dict[str, str]]:
        """Read the tensors and metadata of a part.

        Raises
        ------
        InputError
            There is no such part.
        FormatError
            It is damaged; :meth:`has` tells beforehand.
        """
        return read_sealed(self._tensors(name), library=library)

    def save_json(self, name: str, value: Any) -> None:
        """Write a JSON value (finite numbers, text, lists, dicts with text keys) atomically."""
        _write_json(self._json(name), value)

    def load_json(self, name: str) -> Any:
        """Read a JSON value; raises as :meth:`load_tensors` does."""
        return _read_json(self._json(name))

    def remove(self) -> None:
        """Delete the parts and then the folder, unless files of others lie in it."""
        sweep_stale(self.directory, -1.0)
        for name in self.names:
            self._tensors(name).unlink(missing_ok=True)
            self._json(name).unlink(missing_ok=True)
        # Last: as long as parts are there, the folder says whose they are.
        (self.directory / _JOB).unlink(missing_ok=True)
        if not any(self.directory.iterdir()):
            self.directory.rmdir()

    def _tensors(self, name: str) -> Path:
        return self.directory / f"{_checked_name(name)}.safetensors"

    def _json(self, name: str) -> Path:
        return self.directory / f"{_checked_name(name)}.json"


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or name == "job":
        raise InputError(
            f"checkpoint part {name!r:.100}: give 1 to 200 letters, digits, '_', '-' and '.', not beginning "
            "with '.', and not 'job'."
        )
    return name


def _normalised(value: Any) -> Any:
    """Return ``value`` as it will come back from the file: tuples become lists."""
    try:
        return parse_json(canonical_json(value), "the value")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"a checkpoint holds JSON only (finite numbers, text, lists, dicts with text keys): {error}."
        ) from error


def _write_json(path: Path, value: Any) -> None:
    content = canonical_json(_normalised(value))
    digest = tensor_digest(memoryview(content)).encode("ascii")
    atomic_write(path, lambda file: file.write(b'{"sha256":"' + digest + b'","value":' + content + b"}\n"))


def _read_json(path: Path) -> Any:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{str(path)!r}: there is no such file.") from None
    content = parse_json(text, repr(str(path)))
    if not isinstance(content, dict) or content.keys() != {"sha256", "value"}:
        raise FormatError(f"{str(path)!r} was not written by tnet, or is damaged.")
    if tensor_digest(memoryview(canonical_json(content["value"]))) != content["sha256"]:
        raise FormatError(f"{str(path)!r} is damaged: it does not match its SHA-256.")
    return content["value"]


def _read_job(path: Path) -> dict[str, Any]:
    job = _read_json(path)
    version = job.get("format_version") if isinstance(job, dict) else None
    if version != _FORMAT_VERSION:
        raise FormatError(
            f"{str(path)!r} has format_version {version!r}, this tnet reads {_FORMAT_VERSION}: "
            "remove the folder to begin again, or use the tnet that made it."
        )
    return job["key"]


def _require_same(folder: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    absent = "nothing"
    differences = [
        f"{name} was {stored.get(name, absent)!r:.80} and is now {wanted.get(name, absent)!r:.80}"
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name, absent) != wanted.get(name, absent)
    ]
    if differences:
        raise InputError(
            f"checkpoint {str(folder)!r} belongs to another job: {'; '.join(differences)}. "
            "Run with the same options and inputs, or remove the folder to begin again."
        )
