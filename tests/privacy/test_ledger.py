"""What was spent stays spent: over crashes, new runs, retries and two processes at once."""

import json
import multiprocessing
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower import files
from smdl_flower.errors import BudgetExhaustedError, PrivacyError
from smdl_flower.privacy.accounting import Steps, epsilon
from smdl_flower.privacy.ledger import Ledger

ROUND = Steps(10.0, 1.0, 1)  # 50 of them cost epsilon 3.2


def ledger(folder, cap=3.0, delta=1e-5):
    return Ledger(folder / "images.jsonl", cap=cap, delta=delta)


def charge(folder, count=1, **options):
    for number in range(1, count + 1):
        account = ledger(folder, **options).charge(ROUND, run="r", server_round=number)
    return account


def test_every_charge_adds_up_over_new_ledgers_of_the_same_file(tmp_path):
    account = charge(tmp_path, 7)
    assert account.spent() == pytest.approx(epsilon([Steps(10.0, 1.0, 7)], 1e-5))
    assert ledger(tmp_path).read() == account


def test_the_cap_is_kept_at_every_round_and_a_refusal_costs_nothing(tmp_path):
    spent = [charge(tmp_path).spent()]
    while epsilon([Steps(10.0, 1.0, len(spent) + 1)], 1e-5) <= 3.0:
        spent += [charge(tmp_path).spent()]
    with pytest.raises(BudgetExhaustedError, match=r"images has spent .* its cap is 3"):
        charge(tmp_path)
    assert all(value <= 3.0 for value in spent)
    assert len(spent) > 20
    assert ledger(tmp_path).read().spent() == spent[-1]
    cheaper = ledger(tmp_path).charge(Steps(1000.0, 1.0, 1), run="r", server_round=1)
    assert cheaper.spent() <= 3.0


def test_a_later_run_cannot_raise_the_cap(tmp_path):
    charge(tmp_path, 1, cap=1.0)
    with pytest.raises(BudgetExhaustedError, match="its cap is 1"):
        charge(tmp_path, 200, cap=100.0)


def test_another_delta_is_refused(tmp_path):
    charge(tmp_path)
    with pytest.raises(PrivacyError, match="two deltas"):
        charge(tmp_path, delta=1e-6)


def test_a_charge_is_on_disk_before_it_returns(tmp_path):
    charge(tmp_path)
    entry = json.loads((tmp_path / "images.jsonl").read_text().splitlines()[-1])
    assert (entry["sigma"], entry["sample_rate"], entry["count"]) == (10.0, 1.0, 1)
    assert (tmp_path / "images.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_crash_between_line_and_head_leaves_the_charge_paid(tmp_path, monkeypatch):
    charge(tmp_path, 2)

    def crash(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", crash)
        with pytest.raises(KeyboardInterrupt):
            charge(tmp_path)
    assert len(ledger(tmp_path).read().history) == 3
    assert len(charge(tmp_path).history) == 4


def test_a_line_that_was_cut_off_by_a_crash_never_began_training(tmp_path):
    before = charge(tmp_path, 2)
    with (tmp_path / "images.jsonl").open("ab") as stream:
        stream.write(b'{"run": "r", "rou')
    assert ledger(tmp_path).read() == before
    assert len(charge(tmp_path).history) == 3


DAMAGE = {
    "last line removed": lambda lines: lines[:-1],
    "first charge removed": lambda lines: [lines[0], *lines[2:]],
    "sigma raised": lambda lines: [*lines[:-1], lines[-1].replace(b"10.0", b"99.0")],
    "cap raised": lambda lines: [lines[0].replace(b"3.0", b"9.0"), *lines[1:]],
    "emptied": lambda _: [],
    "two lines swapped": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "not JSON": lambda lines: [*lines[:-1], b"{]"],
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_ledger_is_refused(what, tmp_path):
    charge(tmp_path, 3)
    path = tmp_path / "images.jsonl"
    lines = DAMAGE[what](path.read_bytes().splitlines())
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(PrivacyError, match="nothing is trained"):
        charge(tmp_path)


@pytest.mark.parametrize("what", ["images.jsonl", "images.head"])
def test_a_ledger_that_lost_a_file_is_refused(what, tmp_path):
    charge(tmp_path, 3)
    (tmp_path / what).unlink()
    with pytest.raises(PrivacyError, match="nothing is trained"):
        charge(tmp_path)


@given(st.binary(max_size=200))
def test_any_other_content_is_refused_or_is_no_entry(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("ledger")
    charge(folder, 2)
    (folder / "images.jsonl").write_bytes(content)
    with pytest.raises(PrivacyError):
        charge(folder)


def _spend(folder, barrier):
    barrier.wait()
    for _ in range(40):
        try:
            charge(folder, cap=1.0)
        except BudgetExhaustedError:
            os._exit(0)


def test_two_processes_cannot_spend_the_same_budget(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_spend, args=(tmp_path, barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    account = ledger(tmp_path).read()
    assert account.spent() <= 1.0
    count = len(account.history)
    assert epsilon([Steps(10.0, 1.0, count + 1)], 1e-5) > 1.0
