"""Files are written whole or not at all, privately, and never over what others left."""

import json
import os
import stat
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
