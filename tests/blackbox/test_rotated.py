"""Copies that answer are named after a rotation too, from a restored home too, and judged."""

import shutil
from pathlib import Path

import pytest

from smdl_flower import backup, commitments, evidence_package, files, judging, keyfile, rotation
from smdl_flower.errors import HomeError
from smdl_flower.home import OwnerHome
from smdl_flower.judging import Trust
from smdl_flower.questioning import Question, question
from smdl_flower.weights import Weights
from tests.blackbox.test_questioning import served


@pytest.fixture
def home(asked_home: OwnerHome, asked_copies: dict[str, Weights], tmp_path: Path) -> OwnerHome:
    assert asked_copies
    shutil.copytree(asked_home.path, tmp_path / "home")
    return rotation.rotate(tmp_path / "home", None).home


def test_the_customer_is_named_and_the_accusation_judged(
    home: OwnerHome, asked_copies: dict[str, Weights], tmp_path: Path
) -> None:
    verdict = question(home, served(asked_copies["bank-b"]), "https://thief", Question())
    assert [a.customer for a in verdict.accused] == ["bank-b"]
    folder = tmp_path / "evidence"
    evidence_package.require_disclosable(home, verdict)
    files.write_json(folder / "verdict.json", verdict.to_json())
    evidence_package.write(home, verdict, folder)
    for key in home.keys:
        assert judging.judge(folder, trust=Trust(key.signing_key().public)).valid


def test_images_and_answers_come_back_from_a_backup(
    home: OwnerHome,
    asked_copies: dict[str, Weights],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)
    backup.back_up(home.path, None, tmp_path / "file", "words")
    newest = commitments.of_home(home)[-1].digest
    again = backup.restore(tmp_path / "file", tmp_path / "new", "words", newest=newest).home
    verdict = question(again, served(asked_copies["bank-a"]), "https://thief", Question())
    assert [a.customer for a in verdict.accused] == ["bank-a"]
    tracing = backup.restore(tmp_path / "file", tmp_path / "third", "words").home
    with pytest.raises(HomeError, match="It traces files"):  # what is asked must be recorded first
        question(tracing, served(asked_copies["bank-a"]), "https://thief", Question())
