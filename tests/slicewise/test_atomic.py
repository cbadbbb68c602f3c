"""A file is the old one or the new one, whatever happens while it is written."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from slicewise.atomic import write_atomically

# More than the full disk below holds.
TOO_MUCH = 256 * 1024

KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from slicewise.atomic import write_atomically

def write(unfinished):
    with unfinished.open("wb") as file:
        file.write(b"new" * 1000)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

write_atomically(sys.argv[1], write, sync=sys.argv[2] == "sync")
"""

REWRITES = """
import sys
from slicewise.atomic import write_atomically

print("ready", flush=True)
while True:
    for letter in b"ab":
        write_atomically(sys.argv[1], bytes([letter]) * int(sys.argv[2]))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with content."""
    path = tmp_path / "file"
    path.write_text("old")
    return path


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds 64 KB: a file system of its own, else by the process's limit."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if mounted:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    # Python ignores the signal of this limit, so that writing raises OSError, as on a full disk.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@given(
    content=st.one_of(st.binary(), st.text(st.characters(exclude_categories=("Cs",)))),
    existed=st.booleans(),
    sync=st.booleans(),
)
def test_what_is_written_is_read(content: bytes | str, existed: bool, sync: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        if existed:
            path.write_text("old")
        assert write_atomically(path, content, sync=sync) == path
        # Line ends are left as they are.
        expected = content.encode() if isinstance(content, str) else content
        assert path.read_bytes() == expected
        assert os.listdir(folder) == ["file"]


def test_a_function_writes_to_the_path_that_it_is_given(file: Path) -> None:
    def write(unfinished: Path) -> None:
        assert unfinished.parent == file.parent
        assert not unfinished.exists()
        unfinished.write_text("new")
        assert file.read_text() == "old"

    assert write_atomically(str(file), write, sync=True) == file
    assert file.read_text() == "new"
    assert os.listdir(file.parent) == ["file"]


def _write_for_its_owner_alone(unfinished: Path) -> None:
    unfinished.write_text("new")
    unfinished.chmod(0o600)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
@pytest.mark.parametrize(
    "content",
    [
        "new",
        lambda unfinished: unfinished.write_text("new"),
        _write_for_its_owner_alone,
        lambda unfinished: save_file({"x": torch.zeros(1)}, unfinished),
    ],
    ids=["text", "a function", "a private one", "safetensors"],
)
def test_others_may_read_it_as_any_new_file(
    file: Path, content: str | Callable[[Path], object], umask: int
) -> None:
    before = os.umask(umask)
    try:
        write_atomically(file, content)
        plain = file.with_name("plain")
        plain.write_text("new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(os.listdir(file.parent)) == ["file", "plain"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    file: Path, error: type[BaseException]
) -> None:
    def write(unfinished: Path) -> None:
        unfinished.write_text("ne")
        raise error

    with pytest.raises(error):
        write_atomically(file, write)
    assert file.read_text() == "old"
    assert os.listdir(file.parent) == ["file"]


def test_a_function_that_writes_nothing_is_a_failure(file: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(file, lambda unfinished: None)
    assert file.read_text() == "old"


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "folder", "new")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_full_disk_says_which_file(file: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(file, lambda _: Path("/dev/full").write_text("more"))
    assert caught.value.filename == str(file)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "file", "new")


@pytest.mark.parametrize("size", [TOO_MUCH, 0])
def test_a_full_disk(full_disk: Path, size: int) -> None:
    """Full with this file, or before it."""
    file = full_disk / "file"
    file.write_text("old")
    if not size:
        # On a full file system the last blocks go to this one; a process's limit is by file.
        with pytest.raises(OSError, match=r"space|large"), (full_disk / "rest").open("wb") as rest:
            rest.write(b"x" * TOO_MUCH)
    before = sorted(os.listdir(full_disk))
    much = b"x" * TOO_MUCH
    for content in (much, much.decode(), lambda unfinished: unfinished.write_bytes(much)):
        with pytest.raises(OSError, match=r"space|large"):
            write_atomically(file, content)
        assert file.read_text() == "old"
        assert sorted(os.listdir(full_disk)) == before


@pytest.mark.parametrize("sync", ["sync", "no sync"])
def test_killed_in_the_middle(file: Path, sync: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(file), sync])
    assert done.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    (unfinished,) = (path for path in file.parent.iterdir() if path != file)
    assert unfinished.read_bytes() == b"new" * 1000
    assert unfinished.match(".file.*.part")
    # The next writer is not in its way.
    write_atomically(file, "new")
    assert file.read_text() == "new"


def test_killed_at_any_moment(tmp_path: Path) -> None:
    file, size = tmp_path / "file", 1 << 20
    for after in (0.01, 0.02, 0.03, 0.05, 0.08):
        arguments = [sys.executable, "-c", REWRITES, str(file), str(size)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            threading.Event().wait(after)
            process.kill()
        if file.exists():
            assert file.read_bytes() in (b"a" * size, b"b" * size)
    assert file.exists()


def test_several_write_and_others_read(file: Path) -> None:
    """Whoever reads meanwhile finds what one of them wrote, all of it."""
    written = ["old", *(letter * 100_000 for letter in "abcd")]
    done = threading.Event()

    def read() -> bool:
        whole = True
        while not done.is_set():
            whole = whole and file.read_text() in written
        return whole

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        writing = [pool.submit(write_atomically, file, text) for text in written[1:] * 20]
        for future in writing:
            future.result()
        done.set()
        assert reading.result()
    assert os.listdir(file.parent) == ["file"]
