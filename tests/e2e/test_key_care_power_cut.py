"""The power goes at every write of rotation, passphrase, backup and restoring: no key is lost."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smdl_flower import backup, checking, commitments, keyfile, rotation
from smdl_flower.errors import HomeError
from smdl_flower.home import OwnerHome
from tests.e2e.power import Machine, machine
from tests.e2e.trials import CUSTOMERS, Trial, Words, prepared

pytestmark = pytest.mark.e2e

SOME, ALL = 5, 1
SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = pytest.mark.parametrize("every", [SOME, pytest.param(ALL, marks=SLOW)])
BOTH = pytest.mark.parametrize("lose_unsynced", [False, True], ids=["killed", "power cut"])
WORDS = "some words"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A home from which one copy was issued, and its backup."""
    place = prepared(tmp_path_factory.mktemp("care"))
    with machine(place) as power:
        trial = Trial.new(place)
        assert power.run(*trial.issue(), "--customer", CUSTOMERS[0]).code == 0
        shutil.rmtree(place / "home")
        shutil.copytree(trial.home, place / "home")
        (place / "words").write_text(WORDS)
        assert power.run(*backing_up(trial, place / "backup")).code == 0
    return place


@pytest.fixture(scope="module")
def power(place) -> Iterator[Machine]:
    with machine(place / "trial") as running:
        yield running


def backing_up(trial: Trial, out: Path) -> Words:
    words = ("--backup-passphrase-file", trial.folder.parent / "words")
    return ("backup", "--home", trial.home, "--out", out, *words)


def cuts(
    power: Machine, place: Path, command: Callable[[Trial], Words], every: int, *, lose: bool
) -> Iterator[Trial]:
    """A trial for each step at which the command was cut off."""
    ended = power.run(*command(Trial.new(place)))
    assert ended.code == 0, ended
    assert ended.steps > 5
    for cut in range(1, ended.steps + 1, every):
        trial = Trial.new(place)
        assert power.run(*command(trial), cut=cut, lose_unsynced=lose).code is None
        yield trial


@STEPS
@BOTH
def test_a_rotation_keeps_every_key_and_is_finished_by_the_next(power, place, every, lose_unsynced):
    old = OwnerHome.open(place / "home").key

    def rotate(trial: Trial) -> Words:
        return ("key", "rotate", "--home", trial.home)

    for trial in cuts(power, place, rotate, every, lose=lose_unsynced):
        left = OwnerHome.open(trial.home)
        assert left.keys[0] == old
        found = checking.check(left)  # also that the base model's mark is the old key's
        assert (found.copies, len(left.keys)) in ((1, 1), (1, 2))
        was_done = rotation.is_finished(left) and len(left.keys) == 2
        assert power.run(*rotate(trial)).code == 0
        after = OwnerHome.open(trial.home)
        assert after.keys[: len(left.keys)] == left.keys
        assert len(after.keys) == 2 + was_done
        assert rotation.is_finished(after)
        assert len(commitments.of_home(after)) == 2 + len(after.keys) - 1


@STEPS
@BOTH
def test_a_passphrase_is_the_old_one_or_the_new_one(power, place, every, lose_unsynced):
    keys = OwnerHome.open(place / "home").keys

    def encrypt(trial: Trial) -> Words:
        file = ("--new-passphrase-file", trial.folder.parent / "words")
        return ("key", "passphrase", "--home", trial.home, *file)

    for trial in cuts(power, place, encrypt, every, lose=lose_unsynced):
        path = trial.home / "master.key"
        if keyfile.is_encrypted(path):
            with pytest.raises(HomeError):
                keyfile.load(path, None)
        assert keyfile.load(path, WORDS if keyfile.is_encrypted(path) else None) == keys
        if not keyfile.is_encrypted(path):
            assert power.run(*encrypt(trial)).code == 0
            assert keyfile.load(path, WORDS) == keys


@STEPS
@BOTH
def test_a_backup_is_there_whole_or_not_at_all(power, place, every, lose_unsynced):
    def back_up(trial: Trial) -> Words:
        return backing_up(trial, trial.folder / "new")

    for trial in cuts(power, place, back_up, every, lose=lose_unsynced):
        again = power.run(*back_up(trial))
        assert again.code == 0 or "already exists" in again.out, again
        done = backup.restore(trial.folder / "new", trial.folder / "restored", WORDS)
        assert done.findings.copies == 1
        assert checking.check(OwnerHome.open(trial.home)).copies == 1  # which was only read


@pytest.mark.parametrize("every", [17, pytest.param(3, marks=SLOW)])
@BOTH
def test_a_restored_home_is_there_whole_or_not_at_all(power, place, every, lose_unsynced):
    newest = commitments.of_home(OwnerHome.open(place / "home"))[-1].digest

    def restore(trial: Trial) -> Words:
        words = ("--backup-passphrase-file", place / "words")
        target = ("--home", trial.folder / "new", "--newest", newest)
        return ("restore", place / "backup", *target, *words)

    for trial in cuts(power, place, restore, every, lose=lose_unsynced):
        again = power.run(*restore(trial))
        assert again.code == 0 or "already exists" in again.out, again
        home = OwnerHome.open(trial.folder / "new")
        assert checking.check(home, newest).copies == 1
        home.registry.add_customers(["newcomer"])
