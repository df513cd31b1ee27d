"""The third journey: commitments, a leak, evidence, and a judge on another machine."""

import json
import shutil

import pytest

from smdl_flower.cli.main import run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def evidence(journey, tmp_path_factory):
    """What the owner hands over, alone in a place of its own; the home is out of reach."""
    place = tmp_path_factory.mktemp("dispute")
    suspect = place / "found.safetensors"
    shutil.copy(journey.copy(1), suspect)
    folder = place / "evidence"
    words = ["verify", suspect, "--home", journey.home, "--report", folder, "--disclose", "--json"]
    assert run([str(word) for word in words]) == 0
    return folder, suspect


def test_a_judge_without_home_confirms_the_verdict(journey, evidence, smdl, monkeypatch):
    folder, suspect = evidence
    listed = smdl("commitments", "--home", journey.home, "--json").document
    assert [c["customers"] for c in listed["commitments"]] == [None, 3]
    monkeypatch.setenv("SMDL_HOME", str(folder / "there-is-no-home"))
    outcome = smdl("judge", folder, suspect, "--key", listed["signing_key"], "--json")
    assert outcome.code == 0
    assert outcome.document["valid"] is True
    (confirmed,) = outcome.document["confirmations"]
    verdict = json.loads((folder / "verdict.json").read_text())
    assert confirmed["customer"] == verdict["accused"][0]["customer"] == "customer-01"
    assert confirmed["log10_p"] < confirmed["threshold"]
    assert outcome.document["committed_at"] == listed["commitments"][-1]["time"]


def test_it_says_so_to_people(evidence, smdl):
    outcome = smdl("judge", *evidence)
    assert outcome.code == 0
    for words in ("customer-01", "confirmed", "Valid:", "compare it with the published one"):
        assert words in outcome.out


def test_what_was_changed_is_damaged_and_another_file_is_another(journey, evidence, smdl, tmp_path):
    folder, suspect = evidence
    changed = shutil.copytree(folder, tmp_path / "evidence")
    page = changed / "report.html"
    page.write_text(page.read_text().replace("customer-01", "customer-02"))
    for arguments in ((changed, suspect), (folder, journey.copy(2))):
        outcome = smdl("judge", *arguments)
        assert outcome.code == 4
        assert outcome.out == ""
    assert smdl("judge", tmp_path, suspect).code == 4
    assert smdl("judge", folder, tmp_path / "none.safetensors").code == 2


def test_nobody_is_disclosed_who_is_not_named(journey, smdl, tmp_path):
    home = tmp_path / "another"
    assert smdl("init", "--home", home).code == 0
    out = tmp_path / "report"
    place = ("--report", out, "--disclose")
    base = next((journey.home / "vault").glob("*/base.safetensors"))
    refused = smdl("verify", base, "--home", journey.home, *place)
    assert refused.code == 2
    assert "names none" in refused.err
    assert not out.exists()
    assert smdl("verify", base, "--home", journey.home, "--disclose").code == 2
