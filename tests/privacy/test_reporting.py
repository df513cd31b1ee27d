"""An epsilon appears only if every check passed: in privacy.json, on the page, on the terminal."""

import json
from typing import Any

import numpy as np
import pytest

from smdl_flower import config, report
from smdl_flower.cli.main import run as smdl
from smdl_flower.privacy import reporting
from smdl_flower.privacy.partition import PrivacyPartition

DP = config.load_defaults(config.example_app_dir()) | {
    "privacy.channel": "dp",
    "privacy.shard-size": 800,
    "privacy.epsilon": 3.0,
    "num-server-rounds": 2,
}
VALUES = {"front": np.ones((2, 3), np.float32), "head": np.ones(2, np.float32)}
SPLIT = PrivacyPartition.label(VALUES, public={"front"})


def line(number, epsilon, **changes):
    return {
        "round": number,
        "epsilon": epsilon,
        "cap": 3.0,
        "charges": number,
        "rng": "os",
        "ledger_head": "ab" * 32,
        **changes,
    }


GOOD = {"000000": [line(1, 1.2), line(2, 2.5)], "000001": [line(1, 1.2), line(2, 2.6)]}


def document(declared=GOOD, rounds=2, **changes):
    return reporting.document(config.parse(DP | changes), SPLIT, declared, rounds)


def test_a_good_run_claims_the_largest_epsilon_of_its_participants():
    found = document()
    assert found["epsilon"] == 2.6
    assert "epsilon 2.600 at delta 1e-05" in found["claim"]
    assert all(check["passed"] for check in found["checks"])
    assert 0 < found["epsilon_prv_of_this_run"] < 3.0


BAD = {
    "a seeded participant": (GOOD | {"000001": [line(1, 1.2), line(2, 2.6, rng="seeded")]}, {}),
    "a seeded run": (GOOD, {"privacy.rng": "seeded"}),
    "over a cap": (GOOD | {"000001": [line(1, 1.2), line(2, 2.6, cap=2.0)]}, {}),
    "over the run's epsilon": (GOOD | {"000001": [line(1, 1.2), line(2, 3.6, cap=9.0)]}, {}),
    "a round without declarations": ({"000000": [line(1, 1.2)]}, {}),
    "nothing declared": ({}, {}),
}


@pytest.mark.parametrize("what", BAD)
def test_one_failed_check_takes_the_epsilon_away(what):
    declared, changes = BAD[what]
    found = document(declared, **changes)
    assert found["epsilon"] is None
    assert found["epsilon_prv_of_this_run"] is None
    assert found["claim"].startswith("No DP claim: ")
    assert not all(check["passed"] for check in found["checks"])


def test_before_the_first_round_nothing_is_claimed():
    assert document({}, 0)["epsilon"] is None


def test_the_channel_clear_claims_nothing():
    found = document({}, 2, **{"privacy.channel": "clear"})
    assert (found["epsilon"], found["checks"]) == (None, [])
    assert found["claim"].startswith("No DP claim: channel 'clear'")
    assert found["partition_sha256"] == SPLIT.sha256()
    assert PrivacyPartition.from_json(found["partition"]) == SPLIT


@pytest.fixture
def run_folder(tmp_path):
    def write(found):
        outcome: dict[str, Any] = {
            "status": "completed",
            "where": "offline",
            "rounds": 2,
            "copies": [],
        }
        outcome |= {"next": "issue", "wall_seconds": 1.0}
        (tmp_path / "run.json").write_text(json.dumps(outcome))
        (tmp_path / "metrics.jsonl").write_text('{"round": 1, "accuracy": 0.9}\n')
        resolved: dict[str, Any] = {
            "config": {"scenario": "s"},
            "code_sha256": "0",
            "git_commit": None,
            "versions": {},
        }
        (tmp_path / "resolved.json").write_text(json.dumps(resolved))
        (tmp_path / "privacy.json").write_text(json.dumps(found))
        return tmp_path

    return write


def test_the_page_shows_epsilon_partition_checks_and_what_is_assumed(run_folder):
    folder = run_folder(document())
    report.write_run_report(folder)
    page = (folder / "report.html").read_text()
    for words in ("epsilon 2.600", "one image", "public", "guarded", "Assumed", "Not covered"):
        assert words in page
    assert page.count("<svg") == 2  # accuracy and epsilon
    assert "NO" not in page.split("Checked:")[1].split("</ul>")[0]


def test_a_page_without_a_claim_shows_no_epsilon(run_folder):
    folder = run_folder(document(GOOD, **{"privacy.rng": "seeded"}))
    report.write_run_report(folder)
    page = (folder / "report.html").read_text()
    assert "No DP claim: simulation only" in page
    assert page.count("<svg") == 1
    assert "2.600" not in page


def test_the_command_prints_the_claim_and_what_it_rests_on(run_folder, capsys):
    folder = run_folder(document())
    assert smdl(["privacy", str(folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("epsilon 2.600", "front", "Assumed", "Not covered", "sigma"):
        assert words in shown
    assert smdl(["privacy", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**document(), "attacks": None}


def score(right, trials=100):
    return {"value": right / trials, "low": 0.0, "high": 1.0, "trials": trials, "right": right}


ATTACKS = {
    "format": "smdl-privacy-attacks/1",
    "attacks": [
        {
            "attack": "matching",
            "question": "which image",
            "control": score(99),
            "protected": score(2),
            "chance": 0.0025,
            "verdict": "no better than a guess",
        },
        {
            "attack": "membership",
            "question": "<b>who</b>",
            "control": {**score(0), "right": None, "value": 0.97},
            "protected": {**score(0), "right": None, "value": 0.53},
            "chance": 0.5,
            "verdict": "no better than a guess",
        },
    ],
    "audit": {"works": True, "passed": True, "claimed_epsilon": 2.95, "lower_bound": 1.1},
}


def test_scores_of_attacks_stand_beside_their_controls_once_measured(run_folder, capsys):
    folder = run_folder(document())
    (folder / "privacy-attacks.json").write_text(json.dumps(ATTACKS))
    report.write_run_report(folder)
    page = " ".join((folder / "report.html").read_text().split())
    assert "<td>99 of 100</td><td>2 of 100</td><td>0.25%</td>" in page.replace("> <", "><")
    assert "AUC 0.53" in page
    assert "passed, claimed epsilon 2.95, refuted below 1.10." in page
    assert "<b>who</b>" not in page
    assert smdl(["privacy", str(folder)]) == 0
    assert "99 of 100" in capsys.readouterr().out
    assert smdl(["privacy", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attacks"] == ATTACKS


def test_without_attacks_the_page_is_silent_about_them(run_folder):
    folder = run_folder(document())
    report.write_run_report(folder)
    assert "Attacks on participants" not in (folder / "report.html").read_text()


@pytest.mark.parametrize("content", ["", "[]", '{"format": "smdl-privacy-attacks/9"}'])
def test_scores_of_no_known_format_are_refused(content, run_folder, capsys):
    folder = run_folder(document())
    (folder / "privacy-attacks.json").write_text(content)
    assert smdl(["privacy", str(folder)]) == 2
    assert "attack anew" in capsys.readouterr().err


def test_the_command_prints_no_epsilon_that_was_not_shown(run_folder, capsys):
    folder = run_folder(document(BAD["over a cap"][0]))
    assert smdl(["privacy", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "No DP claim" in shown
    assert "Epsilon spent" not in shown


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "smdl-privacy/9"}'])
def test_a_document_of_no_known_format_is_refused(content, tmp_path, capsys):
    (tmp_path / "privacy.json").write_text(content)
    assert smdl(["privacy", str(tmp_path)]) == 2
    assert "privacy.json" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert smdl(["privacy", str(tmp_path / "nothing")]) == 2
    assert "there is none" in capsys.readouterr().err


def test_a_document_of_the_first_version_is_still_read(tmp_path, capsys):
    first = {"format": "smdl-privacy/1", "claim": "No DP claim: channel clear", "epsilon": None}
    (tmp_path / "privacy.json").write_text(json.dumps(first))
    assert smdl(["privacy", str(tmp_path)]) == 0
    assert "No DP claim" in capsys.readouterr().out
