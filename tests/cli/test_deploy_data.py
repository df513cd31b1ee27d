"""``smdl deploy data``: an institution looks at its own folder before it joins."""

import json

import pytest
from PIL import Image

from smdl_flower.cli.main import run


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (6, 6), number).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def test_a_good_folder_is_counted(folder, capsys):
    (folder / "notes.txt").write_text("x")
    code = run(["deploy", "data", str(folder), "--classes", "cat, dog, ewe", "--json"])
    assert code == 0
    assert json.loads(capsys.readouterr().out) == {
        "format": "smdl-data/1",
        "folder": str(folder),
        "images": {"cat": 3, "dog": 3},
        "absent": ["ewe"],
        "ignored": 1,
        "problems": [],
    }
    assert run(["deploy", "data", str(folder)]) == 0
    assert "6 images: no problem" in capsys.readouterr().out


def test_every_problem_is_said_at_once(folder, capsys):
    (folder / "cat" / "1.png").write_bytes(b"no image")
    arguments = ["deploy", "data", str(folder), "--classes", "cat", "--min-images", "7"]
    assert run([*arguments, "--json"]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [p["code"] for p in problems] == ["data-classes", "data-too-few", "data-unreadable"]
    assert run(arguments) == 2
    printed = capsys.readouterr().out
    assert "'dog' is no class" in printed
    assert "6 images: 3 problems" in printed


def test_a_folder_that_is_not_there_is_a_problem(tmp_path, capsys):
    assert run(["deploy", "data", str(tmp_path / "absent")]) == 2
    assert "cannot be opened" in capsys.readouterr().out
