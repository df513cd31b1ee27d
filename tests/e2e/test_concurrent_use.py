"""Several processes use one home at once: nothing is lost, nothing doubled, nothing forks."""

import pytest

from smdl_flower import commitments
from smdl_flower.home import OwnerHome
from tests.e2e.power import machine
from tests.e2e.trials import CUSTOMERS, Trial, out, prepared, state, write_model

pytestmark = pytest.mark.e2e

TIMES = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("together"))


@pytest.fixture(scope="module")
def together(place):
    """Return a function that runs commands at once and returns how they ended."""
    with machine(place / "trial") as running:
        yield lambda *commands: running.run_together(commands)


@pytest.fixture
def trial(place):
    return Trial.new(place)


@pytest.fixture(scope="module")
def wanted(place, together):
    """State and copies after one undisturbed issuing."""
    trial = Trial.new(place)
    (ended,) = together(trial.issue())
    assert ended.code == 0
    return state(trial.home), out(trial.copies)


@pytest.mark.parametrize("_", range(TIMES))
def test_the_same_command_twice_makes_every_copy_once(together, trial, wanted, _):
    ends = together(trial.issue(), trial.issue())
    assert [ended.code for ended in ends] == [0, 0], ends
    assert (state(trial.home), out(trial.copies)) == wanted


@pytest.mark.parametrize("_", range(TIMES))
def test_two_that_issue_the_same_copies_elsewhere_agree(together, trial, wanted, _):
    ends = together(trial.issue(), trial.issue("more"))
    assert [ended.code for ended in ends] == [0, 0], ends
    assert (state(trial.home), out(trial.copies)) == wanted
    assert out(trial.folder / "more") == wanted[1]


@pytest.mark.parametrize("_", range(TIMES))
def test_two_that_issue_to_different_customers_leave_what_one_would_have(
    together, trial, wanted, _
):
    one, *others = CUSTOMERS
    more = [word for customer in others for word in ("--customer", customer)]
    ends = together((*trial.issue(), "--customer", one), (*trial.issue("more"), *more))
    assert [ended.code for ended in ends] == [0, 0], ends
    assert state(trial.home) == wanted[0]
    assert {**out(trial.copies), **out(trial.folder / "more")} == wanted[1]
    assert set(out(trial.copies)) == {one}


def test_two_base_models_at_once_are_both_committed_to_in_one_chain(together, trial, wanted):
    other = trial.folder / "other.safetensors"
    write_model(other, seed=2)
    ends = together(trial.issue(), trial.issue("more", other))
    assert [ended.code for ended in ends] == [0, 0], ends
    now = state(trial.home)
    assert len(now.models) == 2
    assert len(now.commitments) == 3  # of_home found them to be one chain
    assert len(now.copies) == 6
    assert out(trial.copies) == wanted[1]
    assert set(wanted[1].values()).isdisjoint(out(trial.folder / "more").values())


@pytest.mark.parametrize("_", range(TIMES))
def test_two_that_add_customers_at_once_lose_none_and_double_none(together, trial, _):
    add = ("customer", "add", "--home", trial.home)
    left, right = [[f"{side}-{n}" for n in range(20)] for side in ("left", "right")]
    ends = together((*add, *left, "both"), (*add, *right, "both"), (*add, "third"))
    assert sorted(ended.code for ended in ends) == [0, 0, 2], ends  # "both" is of one of them
    added = left if ends[0].code == 0 else right
    customers = OwnerHome.open(trial.home).registry.customers()
    assert sorted(customers) == sorted([*CUSTOMERS, *added, "both", "third"])


def test_adding_verifying_and_issuing_at_once_do_not_disturb_each_other(together, trial, wanted):
    assert [ended.code for ended in together(trial.issue())] == [0]
    suspect = trial.copies / "bank-b.safetensors"
    verify = ("verify", suspect, "--home", trial.home, "--json")
    ends = together(
        trial.issue("more"),
        verify,
        ("customer", "add", "late-a", "late-b", "--home", trial.home),
        verify,
    )
    assert [ended.code for ended in ends] == [0, 0, 0, 0], ends
    assert all('"customer": "bank-b"' in ends[i].out for i in (1, 3))
    assert state(trial.home).customers == (*CUSTOMERS, "late-a", "late-b")
    more = out(trial.folder / "more")
    assert {name: more[name] for name in CUSTOMERS} == wanted[1]


def test_a_home_is_created_once(together, trial):
    new = trial.folder / "new"
    ends = together(*[("init", "--home", new)] * 3)
    assert sorted(ended.code for ended in ends) == [0, 2, 2], ends
    owner = OwnerHome.open(new)
    assert owner.registry.customers() == ()
    assert commitments.of_home(owner)[0].subjects == {"key": owner.key.commitment()}
