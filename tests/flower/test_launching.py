"""What a launcher does for the privacy ledgers of simulated participants."""

from pathlib import Path

import pytest

from smdl_flower.flower import launching
from smdl_flower.flower.launching import LEDGER_VARIABLE, LEDGERS, Launch


@pytest.fixture
def plan_of(tmp_path, monkeypatch):
    monkeypatch.delenv(LEDGER_VARIABLE, raising=False)
    scenario = tmp_path / "scenario.toml"
    scenario.write_text('scenario = "s"\n')

    def make(folder, **flat):
        return Launch(tmp_path, scenario, flat, tmp_path / folder, tmp_path / "home", None)

    return make


def test_ledgers_lie_in_the_run_folder_unless_somebody_keeps_them_elsewhere(plan_of, monkeypatch):
    plan = plan_of("run")
    assert Path(plan.environment()[LEDGER_VARIABLE]) == plan.folder / LEDGERS
    monkeypatch.setenv(LEDGER_VARIABLE, "/var/lib/ledgers")
    assert plan.environment()[LEDGER_VARIABLE] == "/var/lib/ledgers"


def test_a_resumed_run_goes_on_with_what_was_spent(plan_of):
    first = plan_of("first")
    launching.prepare(first)
    (first.folder / LEDGERS).mkdir()
    (first.folder / LEDGERS / "digits-000000.jsonl").write_bytes(b"spent\n")
    second = plan_of("second", **{"resume-from": str(first.folder)})
    launching.prepare(second)
    assert (second.folder / LEDGERS / "digits-000000.jsonl").read_bytes() == b"spent\n"


def test_the_variable_is_the_one_that_the_participant_reads():
    from smdl_flower.privacy import private_round  # noqa: PLC0415 - opacus takes seconds

    assert private_round.LEDGER_VARIABLE == LEDGER_VARIABLE
