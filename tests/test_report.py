import dataclasses
import json
import re

import numpy as np
import pytest

from smdl_flower import config, report
from smdl_flower.errors import ConfigError
from smdl_flower.evidence import Accusation, PayloadReading, Suspect, Verdict, Witness
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.flower.incidents import Incident
from smdl_flower.flower.run_folder import RunFolder
from smdl_flower.privacy import reporting
from smdl_flower.privacy.partition import PrivacyPartition

DEFAULTS = config.load_defaults(config.example_app_dir())

ACCUSED = Accusation("clinic-a", "m1", (Witness("carrier", 120.0, -3126.0, -7.2, "carrier", 1),))
VERDICT = Verdict(
    suspect=Suspect("leaked.safetensors", "ab" * 32, "safetensors"),
    model_id="m1",
    max_false_accusation=1e-6,
    customers=3,
    hypotheses=2,
    accused=(ACCUSED,),
    payload=PayloadReading("01" * 16, "clinic-a", 32, 0.0),
    alignment="none",
    highest_unnamed_score=1.2,
    remarks=("9.3% of the marked weights are zero",),
    decoys=DecoySummary(1000, 0.01, 0.99, 3.2),
    carrier_scores=(-0.3, 1.2, 120.0),
)


def page_of(verdict, tmp_path):
    report.write_verdict_report(verdict, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def without_svg(page):
    return re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_a_verdict_page_says_who_how_sure_and_what_is_not_shown(tmp_path):
    page = page_of(VERDICT, tmp_path)
    for words in ("clinic-a", "-3126.0", "1e-06", "1000 decoys", "What is not shown", "took part"):
        assert words in page


def test_a_page_loads_nothing_from_elsewhere(tmp_path):
    page = without_svg(page_of(VERDICT, tmp_path))
    assert "http" not in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=", page)


def test_an_innocent_page_names_nobody(tmp_path):
    payload = dataclasses.replace(VERDICT.payload, best_match=None)
    page = page_of(dataclasses.replace(VERDICT, accused=(), payload=payload), tmp_path)
    assert "Nobody is named" in page
    assert "clinic-a" not in page


def test_text_chosen_by_a_thief_is_escaped(tmp_path):
    suspect = Suspect("<script>alert(1)</script>.safetensors", "ab" * 32, "safetensors")
    page = page_of(dataclasses.replace(VERDICT, suspect=suspect), tmp_path)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_verdict_without_customers_has_a_page_too(tmp_path):
    empty = dataclasses.replace(VERDICT, accused=(), customers=0, carrier_scores=())
    assert "<svg" in page_of(empty, tmp_path)


@pytest.fixture
def run_folder(tmp_path):
    copies = [
        {"customer": "c$1$", "path": "copies/c.safetensors", "accuracy": 0.9, "matching_bits": 304,
         "carrier_score": 350.0, "reason": ""},
        {"customer": "c2", "path": None, "accuracy": 0.5, "matching_bits": 304,
         "carrier_score": 350.0, "reason": "accuracy 50% is too low"},
    ]  # fmt: skip
    outcome = {
        "status": "completed", "scenario": "test", "where": "server", "rounds": 1,
        "model_id": "m1", "code_length": 304,
        "marked_weights": 131_992, "base_accuracy": 0.91, "wall_seconds": 3.0, "copies": copies,
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(outcome))
    (tmp_path / "metrics.jsonl").write_text('{"round": 1, "accuracy": 0.91}\n')
    run_config = {"scenario": "test", "num-server-rounds": 3}
    resolved = {"config": run_config, "code_sha256": "0" * 64, "git_commit": None, "versions": {}}
    (tmp_path / "resolved.json").write_text(json.dumps(resolved))
    split = PrivacyPartition.label({"w": np.ones((2, 3), np.float32)}, public=set())
    privacy = reporting.document(config.parse(DEFAULTS), split, {}, 0)
    (tmp_path / "privacy.json").write_text(json.dumps(privacy))
    return tmp_path


def test_a_run_page_tells_issued_copies_from_refused_ones(run_folder):
    report.write_run_report(run_folder)
    page = (run_folder / "report.html").read_text()
    assert re.search(r"1 of\s+2 customers", page)
    assert "accuracy 50% is too low" in page
    assert "91.0% accuracy" in re.sub(r"\s+", " ", page)


def test_a_run_page_says_who_has_its_copy_and_who_must_be_given_it(run_folder):
    outcome = json.loads((run_folder / "run.json").read_text())
    lie = "declined: <script>alert(1)</script>"
    outcome["deliveries"] = [
        {"customer": "clinic-a", "node": "1", "delivered": True, "reason": ""},
        {"customer": "bank-b", "node": "2", "delivered": False, "reason": lie},
    ]
    (run_folder / "run.json").write_text(json.dumps(outcome))
    report.write_run_report(run_folder)
    page = re.sub(r"\s+", " ", (run_folder / "report.html").read_text())
    assert "Delivered over Flower: clinic-a. <br>To be handed over by other means: bank-b" in page
    assert "<script>alert" not in page


def test_a_run_that_leaves_issuing_to_others_says_the_next_step(run_folder):
    outcome = json.loads((run_folder / "run.json").read_text())
    offline = {**outcome, "where": "offline", "copies": [], "next": "smdl issue global.safetensors"}
    (run_folder / "run.json").write_text(json.dumps(offline))
    report.write_run_report(run_folder)
    assert "smdl issue global.safetensors" in (run_folder / "report.html").read_text()


def test_a_run_page_names_who_sent_what_could_not_be_used(run_folder):
    outcome = json.loads((run_folder / "run.json").read_text())
    incident = {"node": "77", "name": "clinic-b", "participant": None, "used": False}
    words = {"reason": "error reply: <script>alert(1)</script>", "rounds": [2, 3]}
    outcome["incidents"] = [incident | words]
    (run_folder / "run.json").write_text(json.dumps(outcome))
    report.write_run_report(run_folder)
    page = (run_folder / "report.html").read_text()
    for text in ("clinic-b", "<code>77</code>", "never said", "2, 3", "&lt;script&gt;"):
        assert text in page
    assert "<script" not in page


def test_a_failed_runs_page_says_why_who_and_how_to_go_on(run_folder):
    incidents = [{"node": "77", "name": "clinic-b", "participant": None, "used": False,
                  "reason": "NaN in arrays", "rounds": [2]}]  # fmt: skip
    failed = {"status": "failed", "error": "round 2: 1 valid <reply>", "incidents": incidents}
    (run_folder / "run.json").write_text(json.dumps(failed))
    (run_folder / "privacy.json").unlink()  # a run may fail before it is written
    (run_folder / "checkpoint").mkdir()
    page = re.sub(r"\s+", " ", report.write_run_report(run_folder).read_text())
    assert "This run failed after round 1 of 3; nobody was issued a copy." in page
    assert "round 2: 1 valid &lt;reply&gt;" in page
    assert "clinic-b" in page
    assert "NaN in arrays" in page
    assert f"resume-from={run_folder}" in page


def test_a_run_that_was_cut_off_has_a_page_without_what_it_lacks(run_folder):
    incident = Incident(1, 77, "clinic-b", None, "no reply")
    RunFolder(run_folder).append_incident(incident)
    for name in ("run.json", "privacy.json", "metrics.jsonl"):
        (run_folder / name).unlink()
    page = re.sub(r"\s+", " ", report.write_run_report(run_folder).read_text())
    assert "This run was cut off after round 0 of 3" in page
    assert "no reply" in page
    assert "resume-from=" not in page  # there is no checkpoint


def test_a_folder_of_no_run_has_no_page(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        report.write_run_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
