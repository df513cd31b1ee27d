import dataclasses
import json
import re
from types import SimpleNamespace
from typing import cast

import pytest

from smdl_flower.attacks.catalogue import ATTACKS
from smdl_flower.bench import efficiency, page, plan, summary, trials
from smdl_flower.bench.plan import CONTROLS, Plan, Row
from smdl_flower.bench.record import Record, Result, Trace
from smdl_flower.bench.subject import Subject
from smdl_flower.config import checked
from smdl_flower.errors import ConfigError, IntegrityError
from smdl_flower.fingerprint.keys import OwnerKey

KEY = OwnerKey(bytes(range(32)))
IDENTITY = {
    "scenario": "test", "model_id": "m1", "marked_weights": 10_000, "carrier_values": 10_000,
    "customers": 8, "customers_per_row": 1, "seeds": 1,
    "plan_sha256": "0" * 64, "code_sha256": "1" * 64, "max_false_accusation": 1e-6, "versions": {},
}  # fmt: skip
PRUNE, MEAN = Row("prune", {"fraction": 0.5}), Row("average", {}, 2)
ABOUT = {"block": "A", "lossless": False, "knows": "nothing"}
TRACED = Result(
    guilty=("clinic-a",),
    seed=None,
    traces=(Trace("clinic-a", "carrier", -3126.0, -7.2, 120.0),),
    innocents=7,
    exit_code=0,
    alignment="none",
    bit_error_rate=0.0,
    highest_unnamed_score=1.2,
    guilty_scores={"clinic-a": 120.0},
    noise=0.4,
    accuracy_before=0.98,
    accuracy_after=0.97,
)
MISSED = dataclasses.replace(TRACED, traces=(), exit_code=10, bit_error_rate=0.4)
FRAMING = dataclasses.replace(MISSED, wrongly_named=("clinic-b (model m1)",), exit_code=0)


@pytest.mark.parametrize("what", [plan.full(), plan.quick()])
def test_every_row_of_a_plan_is_one_that_the_catalogue_accepts(what):
    for row in what.rows:
        if row.attack not in CONTROLS:
            attack = ATTACKS[row.attack]
            checked(attack.options, row.settings)
            assert row.copies >= attack.copies
    assert len({json.dumps(dataclasses.asdict(row)) for row in what.rows}) == len(what.rows)


def test_the_full_plan_has_every_attack_five_customers_and_three_seeds():
    what = plan.full()
    assert {row.attack for row in what.rows} == {*CONTROLS, *ATTACKS}
    assert set(plan.STRENGTHS) <= set(ATTACKS)
    assert (what.customers, what.seeds) == (5, 3)


def test_no_two_customers_meet_an_attack_with_the_same_seed():
    subject = cast(Subject, SimpleNamespace(customers=("a", "b", "c", "d")))
    what = Plan((Row("noise"), Row("prune"), Row("noise", {"seed": 9})), 3, 2, first_seed=5)
    seeds = [trial.seed for trial in trials.trials(subject, what)]
    assert seeds == [5, 6, 7, 8, 9, 10, *[None] * 6]


def test_a_plan_of_chosen_attacks_keeps_the_controls():
    chosen = plan.only(plan.quick(), ["prune", "prune"])
    assert {row.attack for row in chosen.rows} == {*CONTROLS, "prune"}
    assert plan.only(plan.quick(), []) == plan.quick()


def test_an_attack_that_the_quick_plan_leaves_out_is_tried_with_its_defaults():
    bare = Plan(plan.quick().rows[:3], 1, 1)
    assert plan.only(bare, ["average"]).rows[3:] == (Row("average", {}, 2),)


def test_an_unknown_attack_is_refused_by_name():
    with pytest.raises(ConfigError, match="--attack prime: unknown; expected one of"):
        plan.only(plan.full(), ["prime"])


def test_coalitions_larger_than_the_run_are_cut_and_those_too_small_left_out():
    rows = (Row("unaltered"), Row("base-model", {}, 0), *(Row("average", {}, s) for s in (2, 5)))
    assert [row.copies for row in Plan(rows, 1, 1).within(3).rows] == [1, 0, 2, 3]
    assert [row.attack for row in Plan(rows, 1, 1).within(1).rows] == ["unaltered", "base-model"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bench" / "bench.json"


def record_at(path, **changes):
    return Record(path, KEY, {**IDENTITY, **changes})


def test_a_record_goes_on_with_what_is_on_disk(path):
    record_at(path).add(PRUNE, ABOUT, TRACED)
    again = record_at(path)
    assert again.results(PRUNE) == (TRACED,)
    assert again.has(PRUNE, ("clinic-a",), None)
    assert not again.has(PRUNE, ("clinic-b",), None)
    assert not again.has(PRUNE, ("clinic-a",), 1)
    assert not again.has(Row("prune", {"fraction": 0.8}), ("clinic-a",), None)
    again.add(MEAN, {**ABOUT, "block": "C"}, TRACED)
    assert [row["attack"] for row in record_at(path).document()["rows"]] == ["prune", "average"]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("-3126.0", "-9999.0"),
        lambda text: text.replace('"wrongly_named": []', '"wrongly_named": ["clinic-b"]'),
        lambda text: text[: len(text) // 2],
        lambda _: "[]",
        lambda _: '{"seal": 1}',
        lambda _: '{"seal": "é"}',
    ],
)
def test_a_record_that_was_changed_is_refused(path, change):
    record_at(path).add(PRUNE, ABOUT, TRACED)
    path.write_text(change(path.read_text()))
    with pytest.raises(IntegrityError, match="remove it to start anew"):
        record_at(path)


def test_what_is_said_of_a_row_is_kept(path):
    record = record_at(path)
    record.add(MEAN, {**ABOUT, "block": "C"}, TRACED)
    efficiency.complete(record)
    record.save()
    (row,) = record_at(path).document()["rows"]
    assert row["efficiency"]["noise"] == pytest.approx(0.4)
    assert summary.lines(record.document())[0].eta == row["efficiency"]["eta"]
    assert f"{row['efficiency']['eta']:.2f}</td>" in page_of(path, complete_of(record))


def complete_of(record):
    return record.document(summary.totals(record.document()))


def test_a_record_of_another_owner_is_refused(path):
    record_at(path).add(PRUNE, ABOUT, TRACED)
    with pytest.raises(IntegrityError):
        Record(path, OwnerKey(bytes(32)), IDENTITY)


def test_a_record_of_another_plan_or_code_is_not_mixed_with_this_one(path):
    record_at(path).add(PRUNE, ABOUT, TRACED)
    with pytest.raises(ConfigError, match="different: code_sha256, plan_sha256"):
        record_at(path, plan_sha256="2" * 64, code_sha256="2" * 64)


def document_of(path, *results, row=PRUNE, about=ABOUT):
    record = record_at(path)
    for result in results:
        record.add(row, about, result)
    record.save(summary.totals(record.document()))
    return record.document(summary.totals(record.document()))


def test_an_innocent_who_is_named_is_counted(path):
    document = document_of(path, TRACED, FRAMING)
    (line,) = summary.lines(document)
    assert (line.named, line.guilty, line.wrongly_named) == (1, 2, 1)
    assert document["totals"]["wrongly_named"] == 1
    assert document["totals"]["innocents"] == 14
    assert document["totals"]["wrongly_named_upper_95"] > 1 / 14
    assert summary.closing(document["totals"]).startswith("1 of 14 innocents named")


def test_an_attack_that_destroys_the_model_is_no_success_for_the_thief(path):
    wrecked = dataclasses.replace(MISSED, accuracy_after=0.92)
    document = document_of(path, TRACED, wrecked)
    assert document["totals"]["destroyed"] == 1
    assert (document["totals"]["named"], document["totals"]["guilty"]) == (1, 1)
    assert summary.lines(document)[0].remark == "destroys the model (1 of 2)"


def test_verdicts_that_could_not_be_given_say_why(path):
    unread = dataclasses.replace(MISSED, exit_code=11, reason="too much is zero", innocents=0)
    refused = dataclasses.replace(unread, exit_code=3, reason="not finite")
    untried = Result(("clinic-a",), None, reason="not tried: nothing to fold")
    document = document_of(path, unread, refused, untried)
    remark = summary.lines(document)[0].remark
    assert "inconclusive (1 of 3): too much is zero" in remark
    assert "refused (1 of 3): not finite" in remark
    assert "not tried: nothing to fold" in remark
    assert document["totals"]["not_tried"] == 1
    assert summary.lines(document)[0].guilty == 2


@pytest.mark.parametrize(("events", "trials"), [(0, 1), (0, 120), (3, 50), (5, 5)])
def test_the_upper_bound_is_the_rate_at_which_so_few_are_seen_once_in_twenty(events, trials):
    from scipy import stats  # noqa: PLC0415

    rate = summary.upper_bound(events, trials)
    expected = 0.05 if events < trials else 1.0
    assert stats.binom.cdf(events, trials, rate) == pytest.approx(expected)
    assert summary.upper_bound(0, 0) == 1.0


def page_of(path, document):
    page.write(path.with_name("bench.html"), document)
    return path.with_name("bench.html").read_text()


def test_a_page_shows_both_plots_and_loads_nothing_from_elsewhere(path):
    record = record_at(path)
    record.add(PRUNE, ABOUT, TRACED)
    record.add(PRUNE, ABOUT, MISSED)
    record.add(MEAN, {**ABOUT, "block": "C"}, TRACED)
    text = page_of(path, record.document(summary.totals(record.document())))
    assert text.count("<svg") == 2
    rest = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert "http" not in rest
    assert not re.search(r"(src|href)=|<script", rest)
    assert "prune fraction=0.5" in rest
    assert "0 of 21 innocents named" in rest


def test_a_page_stands_out_where_an_innocent_was_named(path):
    text = page_of(path, document_of(path, FRAMING))
    assert 'class="lead named"' in text
    assert '<tr class="wrong">' in text


def test_a_page_without_any_attack_has_no_plots(path):
    control = {"block": None, "lossless": True, "knows": None}
    text = page_of(path, document_of(path, TRACED, row=Row("unaltered"), about=control))
    assert "<svg" not in text


def test_a_page_escapes_what_a_stolen_model_made_a_message_say(path):
    nasty = dataclasses.replace(MISSED, exit_code=3, reason="<script>alert(1)</script>")
    assert "<script" not in page_of(path, document_of(path, nasty))
