"""The power goes at every write: nothing is lost, no copy is out that is not recorded, all goes on.

Each command is killed at each of its steps (:mod:`tests.e2e.power`), as a killed process (what was
written stays) and as in a power cut (what was not synced is gone). ``make test`` takes every
eleventh step; the slow tests take all, and kill at random times too.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from smdl_flower import commitments, judging, models, weights
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec
from tests.e2e.power import Ended, Machine, machine
from tests.e2e.trials import CUSTOMERS, TINY, State, Trial, Words, out, prepared, state

pytestmark = pytest.mark.e2e

SOME, ALL = 11, 1
STEPS = [SOME, pytest.param(ALL, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
BOTH = pytest.mark.parametrize("lose_unsynced", [False, True], ids=["killed", "power cut"])
NEW = ("new-a", "new-b")
SMOKE = Path(__file__).parents[2] / "scenarios" / "digits-smoke.toml"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return prepared(tmp_path_factory.mktemp("power"))


@pytest.fixture(scope="module")
def power(place) -> Iterator[Machine]:
    with machine(place / "trial") as running:
        yield running


def require_consistent(trial: Trial, copies: str = "copies") -> None:
    """Whatever happened: no copy that is not recorded and committed to, nothing lost."""
    now = state(trial.home)
    assert now.customers == CUSTOMERS
    owner = OwnerHome.open(trial.home)
    recorded = now.copies
    for customer, digest in out(trial.folder / copies).items():
        assert (customer, digest) in recorded
        assert commitments.newest_of(commitments.of_home(owner), next(iter(now.models)))
    drafts = list((trial.folder / copies).rglob("*.tmp"))
    # Also what is half there is of a copy that was recorded before.
    assert {p.name.split(".")[1] for p in drafts} <= {customer for customer, _ in recorded}


def cut_everywhere(
    power: Machine, place: Path, command: Callable[[Trial], Words], every: int, **how: bool
) -> Iterator[tuple[Trial, Ended]]:
    """Yield a trial for each cut, after it, and how the command ended when it was run again."""
    steps = power.run(*command(Trial.new(place))).steps
    assert steps > 10
    for cut in range(1, steps + 1, every):
        trial = Trial.new(place)
        ended = power.run(*command(trial), cut=cut, **how)
        assert ended.code is None, (cut, ended)
        require_consistent(trial)
        yield trial, power.run(*command(trial))


@pytest.mark.parametrize("every", STEPS)
@BOTH
def test_issuing_goes_on_after_a_cut_at_any_step_and_ends_the_same(
    power, place, every, lose_unsynced
):
    undisturbed = Trial.new(place)
    assert power.run(*undisturbed.issue()).code == 0
    wanted = state(undisturbed.home), out(undisturbed.copies)
    assert wanted[1].keys() == set(CUSTOMERS)
    cuts = cut_everywhere(power, place, Trial.issue, every, lose_unsynced=lose_unsynced)
    for trial, again in cuts:
        assert again.code == 0, again
        assert (state(trial.home), out(trial.copies)) == wanted
        assert {p.stem for p in trial.copies.iterdir()} == set(CUSTOMERS)  # and no draft


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_issuing_goes_on_after_a_kill_at_any_time(power, place):
    """Also within a commit of the database, which has no step."""
    undisturbed, rng = Trial.new(place), np.random.default_rng(1)
    begun = time.monotonic()
    assert power.run(*undisturbed.issue()).code == 0
    longest = time.monotonic() - begun
    wanted = state(undisturbed.home), out(undisturbed.copies)
    killed = 0
    for _ in range(200):
        trial = Trial.new(place)
        (ended,) = power.run_together([trial.issue()], kill_after=rng.uniform(0, longest))
        killed += ended.code is None
        require_consistent(trial)
        assert power.run(*trial.issue()).code == 0
        assert (state(trial.home), out(trial.copies)) == wanted
    assert killed > 100


@pytest.mark.parametrize("every", STEPS)
@BOTH
def test_a_home_is_whole_or_can_be_created_again(power, place, every, lose_unsynced):
    def init(trial: Trial) -> Words:
        return ("init", "--home", trial.folder / "new")

    for trial, again in cut_everywhere(power, place, init, every, lose_unsynced=lose_unsynced):
        new = trial.folder / "new"
        assert again.code == 0 or (again.code == 2 and "not empty" in again.out), again
        owner = OwnerHome.open(new)
        assert commitments.of_home_begun(owner)[0].subjects == {"key": owner.key.commitment()}
        keys = [p for p in new.iterdir() if p.suffix == ".key"]
        assert [p.name for p in keys] == ["master.key"]  # no other key lies about


@pytest.mark.parametrize("every", [3, pytest.param(ALL, marks=pytest.mark.slow)])
@BOTH
def test_customers_are_added_all_or_none(power, place, every, lose_unsynced):
    def add(trial: Trial) -> Words:
        return ("customer", "add", "new-a", "new-b", "--home", trial.folder / "home-2")

    def copied(trial: Trial) -> Words:
        shutil.copytree(trial.home, trial.folder / "home-2", dirs_exist_ok=True)
        return add(trial)

    steps = power.run(*copied(Trial.new(place))).steps
    for cut in range(1, steps + 1, every):
        trial = Trial.new(place)
        assert power.run(*copied(trial), cut=cut, lose_unsynced=lose_unsynced).code is None
        assert state(trial.folder / "home-2").customers in (CUSTOMERS, (*CUSTOMERS, *NEW))
        again = power.run(*add(trial))
        assert again.code == 0 or (again.code == 2 and "nothing was added" in again.out), again
        assert state(trial.folder / "home-2").customers == (*CUSTOMERS, *NEW)


@pytest.mark.parametrize("every", [26, *STEPS[1:]])
@BOTH
def test_evidence_is_there_whole_or_not_at_all(power, place, every, lose_unsynced):
    """And a judge confirms what the same command wrote after the cut."""
    issued, spec = place / "issued", ModelSpec("cnn", channels=1, classes=10, image_size=8)
    suspect, model = place / "bank-b.safetensors", place / "cnn.safetensors"
    if not issued.exists():
        shutil.copytree(place / "home", issued)
        base = models.to_weights(models.build(spec, seed=1))
        weights.write(model, base, spec.to_metadata())
        how = ("--out", place, "--home", issued, "--no-fidelity-check", "--customer", "bank-b")
        assert power.run("issue", model, *how).code == 0

    def verify(trial: Trial) -> Words:
        where = ("--home", issued, "--report", trial.folder / "evidence", "--disclose")
        return ("verify", suspect, *where, "--json")

    for trial, again in cut_everywhere(power, place, verify, every, lose_unsynced=lose_unsynced):
        whole = again.code == 2 and "already exists" in again.out
        assert again.code == 0 or whole, again
        judgement = judging.judge(trial.folder / "evidence", suspect)
        assert [c.customer for c in judgement.confirmations] == ["bank-b"]
        assert judgement.valid


@pytest.mark.parametrize(
    "every", [131, pytest.param(3, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_a_run_that_lost_power_goes_on_and_ends_the_same(power, place, every):
    def simulate(trial: Trial, run: str = "run", *more: object) -> Words:
        settings = {
            **{"num-server-rounds": 2, "local-epochs": 1, "num-participants": 2, "min-replies": 2},
            **{"model": TINY, "fingerprint.code-length": 64, "strategy": "fedadam"},
            "fingerprint.max-accuracy-drop": 0.5,
        }
        words = [w for key, value in settings.items() for w in ("--set", f"{key}={value}")]
        where = ("--home", trial.home, "--out", trial.folder / run)
        return ("simulate", SMOKE, "--engine", "inline", *where, *words, *more)

    def wanted_of(trial: Trial, run: str) -> tuple[State, dict[str, str], set[tuple[str, int]]]:
        sent = {(b.model_sha256, b.round) for b in OwnerHome.open(trial.home).registry.broadcasts()}
        return state(trial.home), out(trial.folder / run / "copies"), sent

    undisturbed = Trial.new(place)
    ended = power.run(*simulate(undisturbed))
    wanted = wanted_of(undisturbed, "run")
    assert wanted[1].keys() == set(CUSTOMERS)
    for cut in range(1, ended.steps + 1, every):
        trial = Trial.new(place)
        assert power.run(*simulate(trial), cut=cut, lose_unsynced=True).code is None
        require_consistent(trial, "run/copies")
        begun = list((trial.folder / "run").glob("checkpoint/round-*.safetensors"))
        more = ("--set", f"resume-from={trial.folder / 'run'}") if begun else ()
        again = power.run(*simulate(trial, "again", *more))
        if (trial.folder / "run" / "run.json").exists() and not begun:
            continue  # it had ended
        assert again.code == 0, (cut, again)
        assert wanted_of(trial, "again") == wanted, cut
