"""The third journey: commitments, a leak, evidence, and a judge on another machine."""

import json
import shutil
import subprocess

import pytest

from smdl_flower.cli.main import run

pytestmark = pytest.mark.e2e


TSA = """
[req]
distinguished_name = dn
prompt = no
[dn]
CN = Example root
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
[authority]
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
[tsa]
serial = serial
signer_cert = tsa.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
ess_cert_id_alg = sha256
"""


def stamped(place, question):
    """Answer a time-stamp request as an authority does, with OpenSSL; return answer and root."""
    (place / "tsa.cnf").write_text(TSA)
    (place / "serial").write_text("01\n")
    shutil.copy(question, place / "asked.tsq")
    for line in (
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out root.key",
        "req -x509 -new -key root.key -days 9 -config tsa.cnf -extensions root -out root.pem",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out tsa.key",
        "req -new -key tsa.key -subj /CN=authority -config tsa.cnf -out tsa.csr",
        "x509 -req -in tsa.csr -CA root.pem -CAkey root.key -days 9 -CAcreateserial "
        "-extfile tsa.cnf -extensions authority -out tsa.pem",
        "ts -reply -config tsa.cnf -section tsa -queryfile asked.tsq -out answer.tsr",
    ):
        subprocess.run(["openssl", *line.split()], cwd=place, check=True, capture_output=True)
    return place / "answer.tsr", place / "root.pem"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="plays a time-stamping authority")
def test_a_time_stamp_is_kept_shown_and_checked(journey, smdl, tmp_path):
    """First: evidence that is written later brings it along."""
    at_home = ("--home", journey.home)
    question = tmp_path / "question.tsq"
    assert smdl("commitments", *at_home, "--stamp-request", question).code == 0
    answer, root = stamped(tmp_path, question)
    keep = ("commitments", *at_home, "--stamp-response", answer)
    assert smdl(*keep).code == 2  # whose word is it?
    assert smdl(*keep, "--tsa-root", root).code == 0
    assert smdl(*keep, "--tsa-root", root).code == 2  # it is there
    listed = smdl("commitments", *at_home, "--json").document
    assert [c["stamped"] for c in listed["commitments"]] == [False, True]
    folder, suspect = tmp_path / "evidence", journey.copy(1)
    place = ("--report", folder, "--disclose")
    assert smdl("verify", suspect, *at_home, *place).code == 0
    judged = smdl("judge", folder, suspect, "--tsa-root", root, "--json").document
    assert judged["stamped_at"] >= listed["commitments"][-1]["time"]
    assert smdl("judge", folder, suspect, "--json").document["stamped_at"] == ""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _, other = stamped(elsewhere, question)
    assert smdl("judge", folder, suspect, "--tsa-root", other).code == 4


@pytest.fixture(scope="module")
def evidence(journey, tmp_path_factory):
    """What the owner hands over, alone in a place of its own; the home is out of reach."""
    place = tmp_path_factory.mktemp("dispute")
    suspect = place / "found.safetensors"
    shutil.copy(journey.copy(1), suspect)
    folder = place / "evidence"
    words = ["verify", suspect, "--home", journey.home, "--report", folder, "--disclose", "--json"]
    words += ["--obtained", "found on a stick"]
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
    told = [event["what"] for event in verdict["custody"]]
    assert [what.split(" ")[:2] for what in told] == [
        *(["Base", "model"], ["Copy", "issued"], ["Suspect", "obtained,"], ["Suspect", "examined;"])
    ]
    assert "found on a stick" in (folder / "report.html").read_text()
    strongest = confirmed["witnesses"][0]
    assert strongest["log10_p"] < strongest["threshold"]
    assert outcome.document["committed_at"] == listed["commitments"][-1]["time"]


def test_it_says_so_to_people(evidence, smdl):
    outcome = smdl("judge", *evidence)
    assert outcome.code == 0
    said = " ".join(outcome.out.split())
    for words in ("customer-01", "confirmed", "Valid:", "compare it with the published one"):
        assert words in said
    assert "was it published in time" in said


def test_a_judge_has_a_page_of_its_own(evidence, smdl, tmp_path):
    place = tmp_path / "judged"
    outcome = smdl("judge", *evidence, "--report", place, "--json")
    assert outcome.code == 0
    assert json.loads((place / "judgement.json").read_text()) == outcome.document
    assert "customer-01" in (place / "report.html").read_text()
    assert smdl("judge", *evidence, "--report", place).code == 2  # it is there


def test_only_what_was_published_in_time_counts(journey, evidence, smdl):
    listed = smdl("commitments", "--home", journey.home, "--json").document["commitments"]
    for statement, code in zip(listed, (4, 0), strict=True):
        assert smdl("judge", *evidence, "--published", statement["sha256"]).code == code
    assert smdl("judge", *evidence, "--published", "nothing").code == 4
    assert smdl("judge", evidence[0]).code == 2  # it is about a file


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
