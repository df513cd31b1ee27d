"""Whatever the umask, what is secret is its owner's alone."""

import pytest

from tests.e2e.power import machine
from tests.e2e.test_power_cut import SMOKE
from tests.e2e.trials import TINY, Trial, prepared

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What each command left, under a umask of 0 (:mod:`tests.e2e.power` sets it)."""
    place = prepared(tmp_path_factory.mktemp("modes"))
    trial = Trial.new(place)
    simulate = ("simulate", SMOKE, "--engine", "inline", "--out", trial.folder / "run")
    settings = (f"model={TINY}", "fingerprint.code-length=64", "num-server-rounds=1")
    evidence = ("--report", trial.folder / "evidence")
    passphrase = trial.folder / "words"
    passphrase.write_text("a long passphrase\n")
    with machine(trial.folder) as running:
        for words in (
            trial.issue(),
            ("verify", trial.copies / "bank-b.safetensors", *evidence, "--home", trial.home),
            (*simulate, "--home", trial.home, *(w for s in settings for w in ("--set", s))),
            ("init", "--home", trial.folder / "sealed", "--passphrase-file", passphrase),
        ):
            ended = running.run(*words)
            assert ended.code == 0, ended
    return trial.folder


@pytest.mark.parametrize("name", ["home", "copies", "evidence", "run", "sealed"])
def test_nobody_else_can_read_or_enter_anything(made, name):
    paths = [made / name, *(made / name).rglob("*")]
    assert len(paths) > 2
    open_to_others = {str(p): oct(p.stat().st_mode) for p in paths if p.stat().st_mode & 0o077}
    assert open_to_others == {}


def test_the_control_under_that_umask_a_plain_file_is_open_to_all(made):
    """The model that the test wrote itself, by the same library, lies in an open folder."""
    assert made.stat().st_mode & 0o077
