import json
import re

import numpy as np
import pytest

from smdl_flower import config, report
from smdl_flower.errors import ConfigError
from smdl_flower.flower.incidents import Incident
from smdl_flower.flower.run_folder import RunFolder
from smdl_flower.privacy import reporting
from smdl_flower.privacy.partition import PrivacyPartition

DEFAULTS = config.load_defaults(config.example_app_dir())


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
