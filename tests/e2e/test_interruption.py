"""Runs that fail say so, keep their state, and go on as if nothing had happened."""

import itertools
import json
from pathlib import Path

import pytest

from smdl_flower import sealing, training
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


@pytest.fixture
def offline(smdl, home, tmp_path):
    """Settings of a run whose server has neither home nor key."""
    key = smdl("sealing-key", "--home", home).out.strip()
    values = (
        *("fingerprint.where=offline", "fingerprint.mark-training=false"),
        *("num-server-rounds=2", "local-epochs=1", f"fingerprint.seal-to={key}"),
    )

    def run(out, *more, code=0):
        settings = [word for value in (*values, *more) for word in ("--set", value)]
        absent = tmp_path / "no-home"
        outcome = smdl(
            *("simulate", SMOKE, "--engine", "inline", "--json", "--home", absent),
            *("--out", out, *settings),
        )
        assert outcome.code == code
        assert not absent.exists()
        return outcome

    return run


def models_in_clear(folder):
    """Files below a folder that are, or hold, a model somebody could read."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and (path.suffix == ".safetensors" or b"smdl-model/1" in path.read_bytes())
    ]


def test_issuing_offline_needs_no_home_and_is_finished_elsewhere(smdl, offline, home, tmp_path):
    run = offline(tmp_path / "run").document
    model = tmp_path / "run" / "global.sealed"
    assert model.stat().st_mode & 0o077 == 0
    assert models_in_clear(tmp_path / "run") == []
    assert (
        run["sealed_for"] == smdl("sealing-key", "--home", home, "--json").document["sealing_key"]
    )
    smdl("customer", "add", "clinic-a", "--home", home)
    issued = smdl(
        *("issue", model, "--home", home, "--out", tmp_path / "copies"), "--data", "digits"
    )
    assert issued.code == 0
    verdict = smdl("verify", tmp_path / "copies" / "clinic-a.safetensors", "--home", home, "--json")
    assert [a["customer"] for a in verdict.document["accused"]] == ["clinic-a"]


def test_a_model_too_large_to_seal_is_refused_before_training(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(sealing, "LARGEST", 1 << 20)
    assert "issue on the server" in offline(tmp_path / "run", code=2).err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_another_owner_and_a_damaged_file_are_refused_in_one_line(smdl, offline, home, tmp_path):
    offline(tmp_path / "run")
    model, out = tmp_path / "run" / "global.sealed", tmp_path / "copies"
    printed = smdl("init", "--home", tmp_path / "other", "--json").document["sealing_key"]
    assert printed == smdl("sealing-key", "--home", tmp_path / "other").out.strip()
    for owner in (home, tmp_path / "other"):
        smdl("customer", "add", "clinic-a", "--home", owner)

    def refused(code, *, home=home):
        outcome = smdl("issue", model, "--home", home, "--out", out, "--no-fidelity-check")
        assert (outcome.code, outcome.err.count("\n"), out.exists()) == (code, 1, False)
        return outcome.err

    assert "sealed for" in refused(2, home=tmp_path / "other")
    content = bytearray(model.read_bytes())
    content[-100] ^= 1
    model.write_bytes(content)
    assert "altered or cut off" in refused(3)
    model.write_bytes(content[:90])
    assert "cut off" in refused(3)


def test_a_resumed_offline_run_leaves_no_model_in_clear(
    offline, failing_from_round, tmp_path, monkeypatch
):
    """Also not in the folders of the interrupted runs that it went on from."""
    three = "num-server-rounds=3"
    failing_from_round(2)
    offline(tmp_path / "first", three, code=2)
    (tmp_path / "first" / "checkpoint" / "notes").write_text("mine")
    failing_from_round(2)  # of those it trains
    offline(tmp_path / "second", three, f"resume-from={tmp_path / 'first'}", code=2)
    for name in ("first", "second"):
        assert len(models_in_clear(tmp_path / name)) == 1  # to be resumed from
    monkeypatch.undo()
    offline(tmp_path / "third", three, f"resume-from={tmp_path / 'second'}")
    for name in ("first", "second", "third"):
        assert models_in_clear(tmp_path / name) == [], name
    assert (tmp_path / "first" / "checkpoint" / "notes").read_text() == "mine"


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
