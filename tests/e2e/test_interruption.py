"""Runs that fail say so, keep their state, and go on as if nothing had happened."""

import itertools
import json
from pathlib import Path

import pytest

from smdl_flower import training
from smdl_flower.home import OwnerHome

pytestmark = pytest.mark.e2e

SMOKE = Path(__file__).parents[2] / "scenarios" / "digits-smoke.toml"


@pytest.fixture
def home(smdl, tmp_path):
    path = tmp_path / "home"
    assert smdl("init", "--home", path).code == 0
    return path


@pytest.fixture
def simulate(smdl, home):
    def call(out, *assignments, scenario=SMOKE):
        arguments = [word for a in assignments for word in ("--set", a)]
        return smdl(
            *("simulate", scenario, "--engine", "inline", "--json"),
            *("--home", home, "--out", out, *arguments),
        )

    return call


@pytest.fixture
def failing_from_round(monkeypatch):
    """Return a function: from that round on, every participant's training fails."""
    real = training.train

    def install(number, participants=3):
        calls = []

        def train(*args, **kwargs):
            calls.append(1)
            if len(calls) > participants * (number - 1):
                raise MemoryError("the institution's machine is full")
            return real(*args, **kwargs)

        monkeypatch.setattr(training, "train", train)

    yield install
    monkeypatch.undo()


def test_a_run_in_which_all_participants_fail_fails(simulate, failing_from_round, tmp_path):
    failing_from_round(1)
    outcome = simulate(tmp_path / "run")
    assert outcome.code == 2
    assert "round 1: 0 valid replies of 3" in outcome.err
    assert "participants.log" in outcome.err
    assert "machine is full" in (tmp_path / "run" / "participants.log").read_text()
    assert "machine is full" not in (tmp_path / "run" / "run.json").read_text()
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["status"] == "failed"
    assert not (tmp_path / "run" / "copies").exists()


def test_an_interrupted_run_goes_on_and_ends_like_an_undisturbed_one(
    simulate, home, failing_from_round, tmp_path, monkeypatch
):
    settings = ("num-server-rounds=4", "strategy=fedadam", "local-epochs=1")
    undisturbed = simulate(tmp_path / "undisturbed", *settings)
    assert undisturbed.code == 0

    failing_from_round(3)
    assert simulate(tmp_path / "interrupted", *settings).code == 2
    monkeypatch.undo()

    resumed = simulate(tmp_path / "resumed", *settings, f"resume-from={tmp_path / 'interrupted'}")
    assert resumed.code == 0
    lines = (tmp_path / "resumed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3, 4]
    # The model id is a digest of all weights: the very same model came out.
    assert resumed.document["model_id"] == undisturbed.document["model_id"]
    # One run with one id: what it sent again after the interruption is recorded once.
    broken = json.loads((tmp_path / "interrupted" / "run.json").read_text())
    assert resumed.document["run_id"] == broken["run_id"] != undisturbed.document["run_id"]
    registry = OwnerHome.open(home).registry
    sent = [b for b in registry.broadcasts() if b.run == broken["run_id"]]
    assert [(b.round, len(b.nodes)) for b in sent] == [(1, 3), (2, 3), (3, 3), (4, 3), (5, 0)]
    assert registry.broadcast_words() == 12  # the undisturbed run sent the very same models


def test_a_run_with_other_settings_cannot_be_resumed(simulate, failing_from_round, tmp_path):
    failing_from_round(2)
    assert simulate(tmp_path / "interrupted").code == 2
    outcome = simulate(tmp_path / "again", "seed=8", f"resume-from={tmp_path / 'interrupted'}")
    assert outcome.code == 2
    assert "other settings" in outcome.err


def test_issuing_offline_needs_no_home_and_is_finished_elsewhere(smdl, simulate, home, tmp_path):
    absent = tmp_path / "no-home"
    outcome = smdl(
        *("simulate", SMOKE, "--engine", "inline", "--json", "--home", absent),
        *("--out", tmp_path / "run", "--set", "fingerprint.where=offline"),
        *("--set", "fingerprint.mark-training=false"),
    )
    assert outcome.code == 0
    assert not absent.exists()
    model = tmp_path / "run" / "global.safetensors"
    assert model.stat().st_mode & 0o077 == 0
    smdl("customer", "add", "clinic-a", "--home", home)
    issued = smdl(
        *("issue", model, "--home", home, "--out", tmp_path / "copies"), "--data", "digits"
    )
    assert issued.code == 0
    verdict = smdl("verify", tmp_path / "copies" / "clinic-a.safetensors", "--home", home, "--json")
    assert [a["customer"] for a in verdict.document["accused"]] == ["clinic-a"]


def test_a_fidelity_budget_that_no_copy_keeps_fails_the_run(simulate, tmp_path, monkeypatch):
    from smdl_flower import issuing  # noqa: PLC0415

    penalties = itertools.chain([0.0], itertools.repeat(0.05))  # the base model comes first

    def worse(model, images):
        result = training.evaluate(model, images)
        return training.Evaluation(result.accuracy - next(penalties), result.loss)

    monkeypatch.setattr(issuing, "evaluate", worse)
    outcome = simulate(tmp_path / "run")
    assert outcome.code == 2
    assert "max-accuracy-drop" in outcome.err
    assert list((tmp_path / "run").rglob("customer-*")) == []


def test_a_model_too_small_for_its_fingerprint_is_refused_before_training(simulate, tmp_path):
    outcome = simulate(tmp_path / "run", "fingerprint.code-length=2000")
    assert outcome.code == 2
    assert "lower fingerprint.code-length to 1319" in outcome.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
