"""Storage: what was stored is there after a reboot, whole or as it was before."""

import random
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sdk.storage import CHECKSUM_BYTES, Storage, StorageError, alone
from protocol.errors import ConfigError
from tests.support.small_disk import small_disk

BIG = bytes(range(256)) * 400

#: Stores 0, 1, 2, ... in turn, each as many bytes that say so; a line before each.
WRITER = """
import sys
from pathlib import Path
from device_sdk.storage import Storage
storage = Storage(Path(sys.argv[1]))
for number in range(1_000_000):
    storage.store("pending", number.to_bytes(4, "big") * 20_000)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_what_was_stored_is_there_after_a_reboot(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "state")
    storage.store("pending", b"update")
    storage.store("residual", b"")
    assert Storage(tmp_path / "state").load() == {"pending": b"update", "residual": b""}


def test_the_last_word_stands(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.store("pending", b"first, and longer")
    storage.store("pending", b"second")
    assert Storage(tmp_path).load() == {"pending": b"second"}


def test_what_was_deleted_stays_away(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.store("pending", b"update")
    storage.delete("pending")
    storage.delete("never-there")
    assert Storage(tmp_path).load() == {}


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    Storage(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize("key", ["", "../away", "a/b", "UPPER", "with space"])
def test_a_key_is_a_plain_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError):
        Storage(tmp_path).store(key, b"")


@given(data=st.binary(max_size=200), change=st.data())
def test_any_changed_byte_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, change: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rotten")
    Storage(folder).store("pending", data)
    [path] = folder.iterdir()
    raw = bytearray(path.read_bytes())
    raw[change.draw(st.integers(0, len(raw) - 1))] ^= change.draw(st.integers(1, 255))
    path.write_bytes(bytes(raw))
    storage = Storage(folder)
    assert storage.load() == {}
    assert storage.num_corrupt == 1


@pytest.mark.parametrize("length", [0, 1, CHECKSUM_BYTES - 1, CHECKSUM_BYTES, CHECKSUM_BYTES + 3])
def test_a_torn_file_is_noticed_and_kept_aside(tmp_path: Path, length: int) -> None:
    Storage(tmp_path).store("pending", b"update")
    [path] = tmp_path.iterdir()
    torn = path.read_bytes()[:length]
    path.write_bytes(torn)
    storage = Storage(tmp_path)
    assert storage.load() == {}
    assert storage.num_corrupt == 1
    assert [aside.read_bytes() for aside in tmp_path.glob("*.corrupt")] == [torn]
    storage.store("pending", b"another")
    assert Storage(tmp_path).load() == {"pending": b"another"}


def test_one_rotten_file_costs_its_own_key_only(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.store("pending", b"update")
    storage.store("residual", b"rest")
    (tmp_path / "pending.fedbus").write_bytes(b"rubbish")
    assert storage.load() == {"residual": b"rest"}


def test_what_a_power_cut_left_half_written_is_removed(tmp_path: Path) -> None:
    Storage(tmp_path).store("pending", b"old")
    (tmp_path / "pending.partial").write_bytes(b"half of the n")
    assert Storage(tmp_path).load() == {"pending": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["pending.fedbus"]


def test_killed_at_any_moment_the_old_or_the_new_is_there_whole(tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    sys.stdout.write(f"seed {seed}\n")
    moments = random.Random(seed)  # noqa: S311 -- moments
    for _ in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(moments.uniform(0.0, 0.05))  # the moment is the point
        writer.send_signal(signal.SIGKILL)
        said = writer.communicate()[0].split("\n")
        last = int(said[-2]) if len(said) > 1 else 0
        storage = Storage(tmp_path)
        found = storage.load()["pending"]
        assert found in {number.to_bytes(4, "big") * 20_000 for number in (last, last + 1)}
        assert storage.num_corrupt == 0


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``num_bytes``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_does_not_fit_says_so_and_changes_nothing(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.store("pending", b"old")
    with (
        files_end_at(50_000),
        pytest.raises(StorageError, match=r"pending\.fedbus: .*102400 bytes were not stored"),
    ):
        storage.store("pending", BIG)
    assert Storage(tmp_path).load() == {"pending": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["pending.fedbus"]
    storage.store("pending", BIG)
    assert Storage(tmp_path).load() == {"pending": BIG}


def test_a_full_file_system_says_so_and_changes_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path, 128):
        storage = Storage(tmp_path)
        storage.store("pending", b"old")
        storage.store("residual", BIG)
        with pytest.raises(StorageError, match="make space there"):
            storage.store("pending", BIG[:40_000])
        assert Storage(tmp_path).load()["pending"] == b"old"
        assert not list(tmp_path.glob("*.partial"))
        storage.delete("residual")
        storage.store("pending", BIG[:40_000])
        assert Storage(tmp_path).load()["pending"] == BIG[:40_000]


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "state"


def is_a_file(folder: Path) -> Path:
    (folder / "state").write_text("")
    return folder / "state"


@pytest.mark.parametrize("place", [below_a_file, is_a_file])
def test_a_folder_that_cannot_be_is_named(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    with pytest.raises(StorageError, match="choose another state_dir"):
        Storage(place(tmp_path))


def test_a_medium_is_one_process_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    mine = "another process is this device"
    with alone(state), pytest.raises(StorageError, match=mine), alone(state):
        pytest.fail("two have it")
    with alone(state):
        assert state.is_dir()


@pytest.mark.parametrize("place", [below_a_file, is_a_file])
def test_nobody_is_alone_where_no_folder_can_be(
    tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    with pytest.raises(StorageError, match="choose another state_dir"), alone(place(tmp_path)):
        pytest.fail("there is no such place")


def test_what_another_thread_forgets_while_it_is_read_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, glob = Storage(tmp_path), Path.glob
    storage.store_all({"gone": b"1", "here": b"2"})

    def seen(folder: Path, pattern: str) -> list[Path]:
        found = list(glob(folder, pattern))
        storage.delete("gone")
        return found

    monkeypatch.setattr(Path, "glob", seen)
    assert storage.load() == {"here": b"2"}
