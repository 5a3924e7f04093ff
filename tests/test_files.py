import os
import time
from pathlib import Path

import pytest

from tuili import files
from tuili.errors import StoreError
from tuili.files import LEFTOVER_AGE_S, atomic_path, data_dir, ensure_dir, sha256, write_text


def test_the_data_folder_is_chosen_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TUILI_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert data_dir() == tmp_path / ".local" / "share" / "tuili"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert data_dir() == tmp_path / "xdg" / "tuili"
    monkeypatch.setenv("TUILI_HOME", str(tmp_path / "own"))
    assert data_dir() == tmp_path / "own"


def test_without_a_home_the_message_names_tuili_home(monkeypatch: pytest.MonkeyPatch):
    def homeless() -> Path:
        raise RuntimeError

    for name in ("TUILI_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(StoreError, match="set TUILI_HOME"):
        data_dir()


def test_a_folder_below_a_file_can_not_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"can't create the folder .*file/sub.*choose a place that can be written"):
        ensure_dir(tmp_path / "file" / "sub")
    monkeypatch.setenv("TUILI_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"can't create the folder .*file/sub.*TUILI_HOME"):
        ensure_dir(tmp_path / "file" / "sub")


def test_a_file_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "new" / "a [1].txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("推理")
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "推理"
    assert [each.name for each in path.parent.iterdir()] == ["a [1].txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_can_not_be_replaced_says_why(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "full").touch()
    with pytest.raises(StoreError, match=r"can't write .*/a: .*rights"):
        write_text(tmp_path / "a", "text")
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path: Path):
    path = tmp_path / "a.txt"
    old, young, other = tmp_path / ".a.txt.x1.tmp", tmp_path / ".a.txt.x2.tmp", tmp_path / ".b.txt.x1.tmp"
    for left in (old, young, other):
        left.touch()
    long_ago = time.time() - LEFTOVER_AGE_S - 1
    for left in (old, other):
        os.utime(left, (long_ago, long_ago))
    write_text(path, "text")
    assert set(tmp_path.iterdir()) == {path, young, other}


def test_a_disk_error_while_flushing_is_typed_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_text(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_sha256_reads_the_whole_file(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"a" * (3 << 20))
    assert sha256(path) == "6f850bc94ae6f7de14297c01616c36d712d22864497b28a63b81d776b035e656"
