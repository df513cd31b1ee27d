"""Homes of every version that was released are read; one of a later version is told as such."""

from pathlib import Path

import pytest

from smdl_flower import files, home_file
from smdl_flower.errors import IntegrityError
from smdl_flower.home_file import Settings


@pytest.mark.parametrize(
    "settings", [Settings(), Settings("sqlite:///x"), Settings(None, "because")]
)
def test_what_was_written_is_read(tmp_path: Path, settings: Settings) -> None:
    home_file.write(tmp_path, settings)
    assert home_file.read(tmp_path) == settings


@pytest.mark.parametrize("url", [None, "postgresql://host/name"])
def test_the_file_of_version_0_1_0_is_read_and_left_as_it_is(
    tmp_path: Path, url: str | None
) -> None:
    files.write_json(tmp_path / "home.json", {"format": "smdl-home/1", "registry_url": url})
    before = (tmp_path / "home.json").read_bytes()
    assert home_file.read(tmp_path) == Settings(url)
    assert (tmp_path / "home.json").read_bytes() == before


def test_upgrades_are_made_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they will be when there is a third format."""
    monkeypatch.setattr(home_file, "FORMAT", "smdl-home/3")
    monkeypatch.setitem(
        home_file.UPGRADES,
        "smdl-home/2",
        lambda d: {**d, "format": "smdl-home/3", "tracing_only": d["tracing_only"] + "!"},
    )
    files.write_json(tmp_path / "home.json", {"format": "smdl-home/1", "registry_url": "u"})
    assert home_file.read(tmp_path) == Settings("u", "!")


def test_a_later_version_is_told_from_damage(tmp_path: Path) -> None:
    files.write_json(tmp_path / "home.json", {"format": "smdl-home/3", "registry_url": None})
    with pytest.raises(IntegrityError, match="newer version of smdl-flower"):
        home_file.read(tmp_path)
    cases: tuple[object, ...] = (
        {"format": "smdl-home/2", "registry_url": None},
        {"format": "smdl-home/2", "registry_url": 7, "tracing_only": ""},
        {"format": "smdl-home/2", "registry_url": None, "tracing_only": None},
        {"format": "smdl-key/3"},
        {"format": ["smdl-home/3"]},
        {},
        [],
    )
    for damaged in cases:
        files.write_json(tmp_path / "home.json", damaged)
        with pytest.raises(IntegrityError, match="missing or damaged"):
            home_file.read(tmp_path)


def test_a_url_is_not_shown() -> None:
    assert "secret" not in repr(Settings("postgresql://me:secret@host/name"))
