"""What released versions wrote is read for ever: homes trace their copies, and go on.

``tests/golden/VERSION`` was made by the code of that version (see ``make.py`` there); ``next`` is
what the coming one writes. Master keys in it are samples.
"""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from shutil import copytree

import pytest

from smdl_flower import backup, checking, commitments, issuing, judging, models, rotation, weights
from smdl_flower.config import FingerprintConfig
from smdl_flower.errors import IntegrityError
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.judging import Trust
from smdl_flower.verifying import verify
from tests.golden.make import CUSTOMERS, SETTINGS, SPEC

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if (path / "home").is_dir())
UNCHECKED = FidelityGate(images=None, max_accuracy_drop=0.0)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A version's files, private as they were: a repository does not keep that."""
    copytree(GOLDEN / request.param, tmp_path / "version")
    for path in (tmp_path / "version").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return tmp_path / "version"


@pytest.fixture
def _architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GOLDEN))
    monkeypatch.delitem(sys.modules, "tiny", raising=False)


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_there_is_a_sample_of_every_version() -> None:
    """Each section of the changelog but the first, which is about what is not released yet."""
    text = (GOLDEN.parents[1] / "CHANGELOG.md").read_text("utf-8")
    released = [line[3:].split()[0].strip("[]") for line in text.splitlines() if line[:3] == "## "]
    assert sorted([*released[1:], "next"]) == VERSIONS


def test_every_copy_is_traced_and_nothing_is_written(version: Path) -> None:
    before = contents(version)
    home = OwnerHome.open(version / "home")
    assert home.registry.customers() == CUSTOMERS
    copies = sorted(version.glob("copies*/*.safetensors"))
    assert len(copies) >= 2
    for path in copies:
        verdict = verify(home, path)
        assert [a.customer for a in verdict.accused] == [path.stem]
    assert checking.check(home).copies == len(copies)
    assert contents(version) == before


@pytest.mark.usefixtures("_architecture")
def test_a_home_goes_on_under_this_version(version: Path, tmp_path: Path) -> None:
    """More customers of the old base model, a new key, a new base model, a backup."""
    home = OwnerHome.open(version / "home")
    keys = len(home.keys)
    home.registry.add_customers(["newcomer"])
    config = FingerprintConfig.model_validate(SETTINGS)
    (model, *_) = home.base_models()
    campaign = issuing.open_campaign(home, SPEC, model.weights, config, UNCHECKED)
    again, new = issuing.issue(home, campaign, ["clinic-a", "newcomer"], tmp_path / "old")
    original = weights.read(version / "copies" / "clinic-a.safetensors").weights
    assert again.sha256 == weights.digest(original)
    assert new.path
    home = rotation.rotate(home.path, None).home
    base = models.to_weights(models.build(SPEC, seed=9))
    campaign = issuing.open_campaign(home, SPEC, base, config, UNCHECKED)
    (newest,) = issuing.issue(home, campaign, ["bank-b"], tmp_path / "new")
    backup.back_up(home.path, None, tmp_path / "backup", "words")
    published = commitments.of_home(home)[-1].digest
    restored = backup.restore(tmp_path / "backup", tmp_path / "home", "words", newest=published)
    assert restored.findings.keys == keys + 1
    for result in (again, new, newest):
        assert result.path
        verdict = verify(restored.home, result.path)
        assert [a.customer for a in verdict.accused] == [result.customer]


def test_evidence_and_backups_are_read(version: Path, tmp_path: Path) -> None:
    if not (version / "evidence").is_dir():
        pytest.skip("version 0.1.0 had neither")
    keys = OwnerHome.open(version / "home").keys
    for key in keys:
        trust = Trust(key.signing_key().public)
        copy = version / "copies" / "clinic-a.safetensors"
        assert judging.judge(version / "evidence", copy, trust=trust).valid
    restored = backup.restore(version / "home.backup", tmp_path / "restored", "golden")
    assert restored.home.keys == keys
    assert restored.findings.copies == 4


# --------------------------------------------------------------------------- what is still to come


def test_a_registry_of_a_later_version_is_told_from_a_damaged_one(version: Path) -> None:
    database = version / "home" / "registry.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("alter table smdl_registry_1 rename to smdl_registry_2")
    with pytest.raises(IntegrityError, match="smdl_registry_2 is of a newer version"):
        OwnerHome.open(version / "home").registry.customers()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("alter table smdl_registry_2 rename to other")
    with pytest.raises(IntegrityError, match="no such table"):
        OwnerHome.open(version / "home").registry.customers()


def test_an_entry_of_a_kind_to_come_is_told(version: Path) -> None:
    home = OwnerHome.open(version / "home")
    with (
        pytest.raises(IntegrityError, match="newer"),
        home.registry._chain.writing() as (_, append),
    ):
        append("pact", {"with": "nobody"})
