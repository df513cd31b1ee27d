"""Files are written whole or not at all, privately, and never over what others left."""

import fcntl
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from smdl_flower import files
from smdl_flower.errors import OutputExistsError


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_a_new_file_has_its_content_and_mode_and_no_temporary_stays(
    tmp_path: Path, mode: int, replace: bool
) -> None:
    before = os.umask(0o022)
    try:
        files.write(tmp_path / "key", b"\x00secret\xff", mode=mode, replace=replace)
    finally:
        os.umask(before)
    assert (tmp_path / "key").read_bytes() == b"\x00secret\xff"
    assert permissions(tmp_path / "key") == mode
    assert names(tmp_path) == ["key"]


def test_a_missing_directory_is_made_for_this_user_only(tmp_path: Path) -> None:
    files.write(tmp_path / "above" / "home" / "key", b"k")
    assert permissions(tmp_path / "above" / "home") == 0o700
    assert permissions(tmp_path / "above") == 0o700


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)
    files.make_private_directory(tmp_path / "shared")
    assert permissions(tmp_path / "shared") == 0o755


def test_replacing_leaves_only_the_new_content(tmp_path: Path) -> None:
    path = tmp_path / "report"
    files.write(path, b"a much longer old content")
    files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["report"]


def test_replacing_a_link_leaves_what_it_pointed_to(tmp_path: Path) -> None:
    (tmp_path / "others").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "others")
    files.write(tmp_path / "link", b"mine")
    assert (tmp_path / "others").read_bytes() == b"precious"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling link"])
def test_without_replace_whatever_is_there_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "copy"
    match kind:
        case "file":
            path.write_bytes(b"old")
        case "directory":
            path.mkdir()
        case "link":
            (tmp_path / "target").write_bytes(b"old")
            path.symlink_to(tmp_path / "target")
        case _:
            path.symlink_to(tmp_path / "nowhere")
    before = names(tmp_path)
    with pytest.raises(OutputExistsError, match="already exists"):
        files.write(path, b"new", replace=False)
    with pytest.raises(OutputExistsError, match="choose another name"):
        files.refuse_to_overwrite(path)
    assert names(tmp_path) == before
    assert kind != "file" or path.read_bytes() == b"old"


def test_a_free_name_is_not_refused(tmp_path: Path) -> None:
    files.refuse_to_overwrite(tmp_path / "free")
    assert names(tmp_path) == []


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("broken", ["fsync", "rename"])
def test_a_crash_while_writing_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, replace: bool
) -> None:
    (tmp_path / "state").write_bytes(b"old")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    else:
        monkeypatch.setattr(Path, "replace", full_disk)
        monkeypatch.setattr(os, "link", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write(tmp_path / "state", b"new", replace=replace)
    assert (tmp_path / "state").read_bytes() == b"old"
    assert names(tmp_path) == ["state"]


def test_an_interrupt_while_writing_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "state", b"new")
    assert names(tmp_path) == []


def test_a_json_document_comes_back_and_not_a_number_is_not_written(tmp_path: Path) -> None:
    document = {"score": 1.5, "names": ["größe", None], "ok": True}
    files.write_json(tmp_path / "report.json", document, mode=0o644)
    assert json.loads((tmp_path / "report.json").read_text()) == document
    assert permissions(tmp_path / "report.json") == 0o644
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "report.json", {"score": float("nan")})
    assert json.loads((tmp_path / "report.json").read_text()) == document


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with files.new_folder(tmp_path / "made") as draft:
        files.write(draft / "a", b"1")
        assert not (tmp_path / "made").exists()
    assert names(tmp_path) == ["made"]
    assert permissions(tmp_path / "made") == 0o700
    with pytest.raises(KeyboardInterrupt), files.new_folder(tmp_path / "other") as draft:  # noqa: PT012
        files.write(draft / "a", b"1")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["made"]


def test_an_empty_folder_is_filled_and_anything_else_is_refused_unchanged(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with files.new_folder(tmp_path / "empty") as draft:
        files.write(draft / "a", b"1")
    assert names(tmp_path / "empty") == ["a"]
    (tmp_path / "file").write_bytes(b"precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "deep")
    before = names(tmp_path)
    for name in ("empty", "file"):
        with pytest.raises(OutputExistsError), files.new_folder(tmp_path / name):
            pass
    assert names(tmp_path) == before
    assert names(tmp_path / "empty") == ["a"]


def test_a_folder_that_another_made_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError), files.new_folder(tmp_path / "made") as draft:  # noqa: PT012
        files.write(draft / "mine", b"1")
        files.write(tmp_path / "made" / "theirs", b"2")
    assert names(tmp_path) == ["made"]
    assert names(tmp_path / "made") == ["theirs"]


def test_a_lock_removes_what_a_killed_process_left_of_its_own_names_only(tmp_path: Path) -> None:
    for name in (".mine.0a1b.tmp", ".other.0a1b.tmp", "mine", ".mine"):
        (tmp_path / name).write_bytes(b"...")
    (tmp_path / ".mine.ffff.tmp").mkdir()
    with files.locked(tmp_path, drafts_of=["mine"]):
        assert names(tmp_path) == [".mine", ".other.0a1b.tmp", "mine"]


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    events: list[str] = []

    def other() -> None:
        with files.locked(tmp_path):
            events.append("locked")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(0.2)
    events.append("freed")
    os.close(held)
    thread.join(60)
    assert events == ["freed", "locked"]
