"""A file or a folder is there whole, or not at all."""

from __future__ import annotations

import errno
import os
import stat
import time

import pytest

from tnet.errors import InputError
from tnet.io import atomic_write, staged_directory
from tnet.io.atomic import sweep_stale


def temporaries(folder):
    return [p for p in folder.iterdir() if p.name.endswith(".tnet-tmp")]


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.bin"
    atomic_write(path, lambda f: f.write(b"old"))
    atomic_write(str(path), lambda f: f.write(b"new"))
    assert path.read_bytes() == b"new"
    assert temporaries(tmp_path) == []


def test_mode_follows_the_umask_then_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    before = os.umask(0o027)
    try:
        atomic_write(path, lambda f: f.write(b"1"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        atomic_write(path, lambda f: f.write(b"2"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_follows_a_symbolic_link(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (real / "a.bin").write_bytes(b"old")
    link = tmp_path / "link.bin"
    link.symlink_to(real / "a.bin")
    atomic_write(link, lambda f: f.write(b"new"))
    assert link.is_symlink()
    assert (real / "a.bin").read_bytes() == b"new"


def test_long_and_odd_names(tmp_path):
    path = tmp_path / ("é" * 120)
    atomic_write(path, lambda f: f.write(b"x"))
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_writer_that_raises_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(error):
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize(("name", "remedy"), [("none/a.bin", "make it first"), (".", "give the name of a file")])
def test_refuses_bad_targets(tmp_path, name, remedy):
    with pytest.raises(InputError, match=remedy):
        atomic_write(tmp_path / name, lambda f: f.write(b"x"))


class FailingCalls:
    """Let the n-th call of the operating system fail, counted over all the functions patched."""

    def __init__(self, n, code):
        self.n, self.code, self.count = n, code, 0

    def step(self):
        self.count += 1
        if self.count == self.n:
            raise OSError(self.code, os.strerror(self.code))

    def wrap(self, function):
        def call(*args, **kwargs):
            self.step()
            return function(*args, **kwargs)

        return call


class FailingFile:
    def __init__(self, file, calls):
        self._file, self._calls = file, calls

    def write(self, data):
        self._calls.step()
        return self._file.write(data)

    def flush(self):
        self._calls.step()
        self._file.flush()

    def fileno(self):
        return self._file.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._file.close()


def install(monkeypatch, calls):
    for name in ("open", "fsync", "replace", "rename", "chmod", "mkdir"):
        monkeypatch.setattr(os, name, calls.wrap(getattr(os, name)))
    fdopen = os.fdopen

    def failing_fdopen(*args, **kwargs):
        calls.step()
        return FailingFile(fdopen(*args, **kwargs), calls)

    monkeypatch.setattr(os, "fdopen", failing_fdopen)


def open_descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE])
def test_every_call_may_fail(tmp_path, monkeypatch, code):
    path = tmp_path / "a.bin"
    descriptors = open_descriptors()
    for n in range(1, 100):
        path.write_bytes(b"old")
        calls = FailingCalls(n, code)
        with monkeypatch.context() as patch:
            install(patch, calls)
            try:
                atomic_write(path, lambda f: (f.write(b"ne"), f.write(b"w")))
                finished = True
            except OSError as error:
                finished = error.errno != code
        assert path.read_bytes() in (b"old", b"new")
        assert temporaries(tmp_path) == []
        if finished:
            break
    assert finished
    assert path.read_bytes() == b"new"
    assert n >= 9  # open, fdopen, two writes, flush, chmod, fsync, replace, then the folder
    assert open_descriptors() == descriptors


def test_every_call_of_a_staged_folder_may_fail(tmp_path, monkeypatch):
    descriptors = open_descriptors()
    for n in range(1, 100):
        target = tmp_path / f"out{n}"
        calls = FailingCalls(n, errno.ENOSPC)
        with monkeypatch.context() as patch:
            install(patch, calls)
            try:
                with staged_directory(target) as folder:
                    calls.step()
                    (folder / "a").write_bytes(b"x")
                    (folder / "sub").mkdir(exist_ok=True)
                finished = True
            except OSError as error:
                finished = error.errno != errno.ENOSPC
        assert temporaries(tmp_path) == []
        assert not target.exists() or (target / "a").read_bytes() == b"x"
        if finished:
            break
    assert finished
    assert open_descriptors() == descriptors


def test_a_full_disk(tmp_path):
    resource = pytest.importorskip("resource")
    import signal

    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
        with pytest.raises(OSError, match="File too large"):
            atomic_write(path, lambda f: f.write(bytes(1 << 20)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert temporaries(tmp_path) == []


def test_staged_folder_appears_last(tmp_path):
    target = tmp_path / "model"
    with staged_directory(target) as folder:
        (folder / "nested").mkdir()
        (folder / "nested" / "a").write_bytes(b"x")
        assert not target.exists()
        assert folder.parent == tmp_path
    assert (target / "nested" / "a").read_bytes() == b"x"
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_staged_folder_that_fails_is_removed(tmp_path, error):
    def build():
        with staged_directory(tmp_path / "model") as folder:
            (folder / "a").write_bytes(b"x")
            raise error

    with pytest.raises(error):
        build()
    assert list(tmp_path.iterdir()) == []


def build_over(target, during=lambda: None):
    with staged_directory(target) as folder:
        (folder / "a").write_bytes(b"x")
        during()


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_staged_folder_refuses_what_exists(tmp_path, kind):
    target = tmp_path / "model"
    make = {
        "folder": target.mkdir,
        "file": target.touch,
        "dangling link": lambda: target.symlink_to(tmp_path / "nowhere"),
    }[kind]
    make()
    with pytest.raises(InputError, match="exists and is never overwritten: remove it"):
        build_over(target)
    target.rmdir() if kind == "folder" else target.unlink()
    with pytest.raises(InputError, match="never overwritten"):
        build_over(target, during=make)
    assert temporaries(tmp_path) == []


def test_staged_folder_needs_the_folder_around_it(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        build_over(tmp_path / "none" / "model")


def test_sweep_removes_only_old_temporaries(tmp_path):
    old, young, other = tmp_path / ".a.0.tnet-tmp", tmp_path / ".b.0.tnet-tmp", tmp_path / "c.bin"
    folder = tmp_path / ".d.0.tnet-tmp"
    link = tmp_path / ".e.0.tnet-tmp"
    kept = tmp_path / "kept"
    for file in (old, young, other, kept):
        file.write_bytes(b"x")
    folder.mkdir()
    (folder / "x").write_bytes(b"x")
    link.symlink_to(kept)
    hour_ago = time.time() - 3600
    for file in (old, other, folder):
        os.utime(file, (hour_ago, hour_ago))
    os.utime(link, (hour_ago, hour_ago), follow_symlinks=False)
    assert sweep_stale(tmp_path, age=1800) == [old, folder, link]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.0.tnet-tmp", "c.bin", "kept"]
