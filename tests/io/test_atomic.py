"""Atomic writes: complete or absent, whatever fails or is killed."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from rlora.io.atomic import open_atomically, write_atomically, write_folder_atomically


def write_folder(path, content):
    with write_folder_atomically(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.bin").write_bytes(content)
    return path


def read(path):
    return (path / "inner" / "a.bin" if path.is_dir() else path).read_bytes()


both = pytest.mark.parametrize("write", [write_atomically, write_folder], ids=["file", "folder"])


@both
def test_a_write_creates_parents_and_replaces_old_content(write, tmp_path):
    target = tmp_path / "some" / "where" / "out"
    for content in (b"old", b"new and longer", b""):
        assert write(target, content) == target
        assert read(target) == content
        assert list(target.parent.iterdir()) == [target]


def test_a_new_folder_keeps_no_file_of_the_old_one(tmp_path):
    target = write_folder(tmp_path / "out", b"old")
    with write_folder_atomically(target) as folder:
        (folder / "b.txt").write_text("new")
    assert [path.name for path in target.rglob("*")] == ["b.txt"]


@pytest.mark.parametrize(
    ("write", "broken"),
    [
        (write_atomically, "os.fsync"),
        (write_atomically, "pathlib.Path.replace"),
        (write_folder, "os.fsync"),
        (write_folder, "pathlib.Path.rename"),
    ],
)
@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_write_keeps_the_old_content(write, broken, existing, tmp_path, monkeypatch):
    target = tmp_path / "out"
    if existing:
        write(target, b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(broken, full)
        with pytest.raises(OSError, match="No space left"):
            write(target, b"new")
    assert list(tmp_path.iterdir()) == ([target] if existing else [])
    assert not existing or read(target) == b"old"


def test_a_folder_returns_where_the_second_rename_fails(tmp_path, monkeypatch):
    target, rename, calls = write_folder(tmp_path / "out", b"old"), Path.rename, []

    def fail_second(self, other):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises(OSError, match="No space left"):
        write_folder(target, b"new")
    assert list(tmp_path.iterdir()) == [target]
    assert read(target) == b"old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("opened", [open_atomically, write_folder_atomically])
def test_an_error_in_the_block_leaves_nothing_new(opened, error, tmp_path):
    def fail_half_way():
        with opened(tmp_path / "out") as target:
            (target / "a" if isinstance(target, Path) else Path(target.name)).write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert not list(tmp_path.iterdir())


def test_a_file_written_in_pieces_appears_only_at_the_end(tmp_path):
    target = write_atomically(tmp_path / "out", b"old")
    with open_atomically(target) as file:
        for piece in (b"one ", b"two"):
            file.write(piece)
            file.flush()
            assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"one two"


def test_an_existing_folder_is_refused_where_it_must_not_be_replaced(tmp_path):
    target = write_folder(tmp_path / "out", b"old")

    def write_again():
        with write_folder_atomically(target, replace=False) as folder:
            (folder / "b.txt").write_text("new")

    with pytest.raises(OSError, match="not empty"):
        write_again()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert read(target) == b"old"


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)]
)
def test_permissions_follow_the_umask(umask, file, folder, tmp_path):
    before = os.umask(umask)
    try:
        paths = write_atomically(tmp_path / "a.txt", b"x"), write_folder(tmp_path / "b", b"x")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in paths] == [file, folder]


KILLED = """
import os, pathlib, signal, sys
from rlora.io.atomic import write_atomically, write_folder_atomically
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = pathlib.Path.rename = kill
target = pathlib.Path(sys.argv[1])
if target.is_dir():
    with write_folder_atomically(target) as folder:
        (folder / "a.bin").write_bytes(b"new")
else:
    write_atomically(target, b"new")
"""


@both
def test_a_kill_between_write_and_rename_keeps_the_old_content(write, tmp_path):
    target = write(tmp_path / "out", b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read(target) == b"old"
    assert all(path == target or path.name.startswith(".out.") for path in tmp_path.iterdir())
    write(target, b"newer")  # what the killed process left is not in the way
    assert read(target) == b"newer"


def _write_often(target, letter):
    for _ in range(30):
        write_atomically(target, letter * 200_000)


def test_concurrent_writers_never_mix(tmp_path):
    target = tmp_path / "out"
    with ProcessPoolExecutor(2) as pool:
        jobs = [pool.submit(_write_often, target, letter) for letter in (b"a", b"b")]
        seen = set()
        while not all(job.done() for job in jobs):
            if target.is_file():
                content = target.read_bytes()
                seen.add((content[:1], len(content), len(set(content))))
        for job in jobs:
            job.result()
    assert seen <= {(b"a", 200_000, 1), (b"b", 200_000, 1)}
    assert list(tmp_path.iterdir()) == [target]
