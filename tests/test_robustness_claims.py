"""The bars of the robustness table: rows that exist, and bars that can be missed."""

import dataclasses

import pytest

from benchmarks import robustness, robustness_claims, robustness_table
from smdl_flower.attacks.catalogue import ATTACKS
from smdl_flower.bench.plan import CONTROLS
from smdl_flower.bench.record import Result, Trace
from smdl_flower.config import checked

GOOD = Result(
    guilty=("a",),
    seed=1,
    traces=(Trace("a", "carrier", -3000.0, -8.2, 120.0),),
    exit_code=0,
    bit_error_rate=0.0,
    guilty_scores={"a": 120.0},
    accuracy_before=0.99,
    accuracy_after=0.98,
)
WHOLE = {"a": 125.0}


def figures(*results):
    return robustness_claims.figures([(result, WHOLE) for result in results])


def test_every_row_is_one_that_the_catalogue_accepts_and_is_tried_once():
    rows = [row for group in robustness.groups().values() for row in group.rows]
    for row in rows:
        if row.attack not in CONTROLS:
            checked(ATTACKS[row.attack].options, row.settings)
            assert row.copies >= ATTACKS[row.attack].copies
    assert all(rows.count(row) == 1 for row in rows)
    assert {row.attack for row in rows} == {*ATTACKS, *CONTROLS}


def test_figures_are_those_of_the_trials():
    missed = dataclasses.replace(GOOD, traces=(), guilty_scores={"a": 3.0}, bit_error_rate=0.4)
    found = figures(GOOD, missed)
    assert (found.guilty, found.named, found.full_trials, found.trials) == (2, 1, 1, 2)
    assert list(found.z) == [120.0, 3.0]
    assert found.kept == pytest.approx([0.96, 0.024])
    assert found.bit_errors == [0.0, 0.4]
    assert found.drops == pytest.approx([1.0, 1.0])


def test_a_suspect_that_could_not_be_compared_counts_as_no_evidence():
    unread = dataclasses.replace(GOOD, traces=(), guilty_scores={}, exit_code=11)
    assert list(figures(unread).z) == [0.0]
    assert figures(dataclasses.replace(GOOD, exit_code=None)).trials == 0


WEAK = dataclasses.replace(GOOD, guilty_scores={"a": 10.0})
GARBLED = dataclasses.replace(GOOD, bit_error_rate=0.2)
HALF = dataclasses.replace(GOOD, guilty=("a", "b"), guilty_scores={"a": 9.0, "b": 2.0})


@pytest.mark.parametrize(
    ("claim", "miss"),
    [
        (robustness_claims.strong(50, 0.01), WEAK),
        (robustness_claims.strong(50, 0.01), GARBLED),
        (robustness_claims.keeps(0.95), WEAK),
        (robustness_claims.keeps(0.95, no_bit_errors=True), GARBLED),
        (robustness_claims.least_z(20), WEAK),
        (robustness_claims.all_named(2), HALF),
        (robustness_claims.named_on_average(2, 2), HALF),
    ],
)
def test_a_bar_that_is_reached_holds_and_one_that_is_missed_does_not(claim, miss):
    _, holds = claim
    assert holds(figures(GOOD, GOOD))
    assert not holds(figures(miss, miss))


def run_of(*results, innocents=()):
    about = {"attack": "prune", "settings": {"fraction": 0.5}, "copies": 1, "block": "A"}
    rows = [{**about, "results": [dataclasses.asdict(result) for result in results]}]
    identity = {"marked_weights": 1000, "carrier_values": 1000}
    copies = [{"accuracy": 0.985}, {"accuracy": 0.98}]
    return {
        "seed": 1,
        "run": {"base_accuracy": 0.99, "copies": copies},
        "benches": {"single": {"identity": identity, "rows": rows}},
        "innocents": list(innocents),
    }


def test_a_network_whose_copies_lose_too_much_does_not_hold():
    found = robustness_table.of_network([run_of(GOOD)])
    assert found["drops"]["mean"] == pytest.approx(0.75)
    assert found["drops"]["worst"] == pytest.approx(1.0)
    assert found["drops"]["holds"] is False


def test_one_survivor_that_is_not_named_or_frames_somebody_is_listed():
    missed = dataclasses.replace(GOOD, traces=())
    framing = dataclasses.replace(GOOD, wrongly_named=("b",))
    destroyed = dataclasses.replace(missed, accuracy_after=0.5)
    held = robustness_table.of_network([run_of(GOOD, destroyed)])["survivors"]
    assert (held["trials"], held["missed"], held["holds"]) == (1, [], True)
    for bad in (missed, framing):
        found = robustness_table.of_network([run_of(GOOD, bad)])["survivors"]
        assert found["missed"] == ["prune fraction=0.5 1 (seed 1)"]
        assert found["holds"] is False


@pytest.mark.parametrize(("std", "highest"), [(1.05, 4.0), (0.95, 4.0), (1.0, 7.0)])
def test_innocents_that_do_not_score_as_they_must_are_seen(std, highest):
    usual = {"suspect": "x", "std": 1.0, "max": 4.1, "customers": 10_000}
    odd = {"suspect": "y", "std": std, "max": highest, "customers": 10_000}
    assert robustness_table.of_network([run_of(GOOD, innocents=[usual])])["innocents"]["holds"]
    found = robustness_table.of_network([run_of(GOOD, innocents=[usual, odd])])["innocents"]
    assert found["holds"] is False
