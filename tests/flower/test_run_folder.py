import json

import pytest

from smdl_flower.config import Scalar
from smdl_flower.flower import checkpoint, run_folder
from smdl_flower.flower.incidents import Incident
from smdl_flower.flower.run_folder import RunFolder, config_sha256


def test_the_launcher_chooses_the_folder_by_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(run_folder.RUN_DIRECTORY_VARIABLE, str(tmp_path / "chosen"))
    assert RunFolder.from_environment("x", tmp_path / "default").path == tmp_path / "chosen"


def test_without_a_launcher_the_folder_is_new_below_the_default_and_private(tmp_path, monkeypatch):
    monkeypatch.delenv(run_folder.RUN_DIRECTORY_VARIABLE, raising=False)
    folder = RunFolder.from_environment("quick", tmp_path / "runs")
    assert folder.path.parent == tmp_path / "runs"
    assert folder.path.name.startswith("quick-")
    assert folder.path.stat().st_mode & 0o077 == 0


def test_metrics_are_a_line_a_round(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"round": 1, "accuracy": 0.5})
    folder.append_metrics({"round": 2, "accuracy": 0.75})
    assert [m["round"] for m in folder.metrics()] == [1, 2]
    assert all(m["seconds"] >= 0 for m in folder.metrics())


def test_a_resumed_run_takes_over_completed_rounds_only(tmp_path):
    (tmp_path / "earlier").mkdir()
    earlier = RunFolder(tmp_path / "earlier")
    for number in (1, 2, 3):
        earlier.append_metrics({"round": number})
    later = RunFolder(tmp_path / "later")
    later.copy_rounds(earlier.path, rounds=2)
    later.append_metrics({"round": 3})
    assert [m["round"] for m in later.metrics()] == [1, 2, 3]


def test_a_resumed_run_takes_over_all_incidents(tmp_path):
    (tmp_path / "earlier").mkdir()
    earlier = RunFolder(tmp_path / "earlier")
    incident = Incident(
        3, 2**63 + 5, "clinic-b", "000001", "bias has values that are NaN or infinite"
    )
    earlier.append_incident(incident)
    later = RunFolder(tmp_path / "later")
    later.copy_rounds(earlier.path, rounds=2)
    later.append_incident(Incident(3, 9, None, None, "no reply in time"))
    later.append_incident(Incident(4, 9, None, None, "no reply in time"))
    assert later.incidents()[0] == incident
    later.finish({})
    assert [entry["rounds"] for entry in (later.outcome() or {})["incidents"]] == [[3], [3, 4]]


def test_a_line_that_was_cut_off_is_not_read(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"round": 1})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"round": 2, "acc')
    assert [m["round"] for m in folder.metrics()] == [1]


def test_a_failure_is_recorded_and_raised(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="broken"), folder.recording_failure():
        raise ValueError("broken")
    outcome = folder.outcome() or {}
    assert (outcome["status"], outcome["error"]) == ("failed", "broken")


def test_success_removes_the_unmarked_checkpoint(tmp_path):
    (tmp_path / checkpoint.DIRECTORY).mkdir()
    (tmp_path / checkpoint.DIRECTORY / "round-000001.safetensors").write_bytes(b"w0")
    folder = RunFolder(tmp_path)
    assert folder.outcome() is None
    folder.finish({"rounds": 1})
    assert (folder.outcome() or {})["status"] == "completed"
    assert not (tmp_path / checkpoint.DIRECTORY).exists()


def test_what_is_recorded_says_how_to_run_it_again(tmp_path, monkeypatch):
    monkeypatch.setenv(run_folder.COMMIT_VARIABLE, "abc123")
    RunFolder(tmp_path).write_resolved({"seed": 3, "model": "cnn"})
    document = json.loads((tmp_path / "resolved.json").read_text())
    assert document["config"] == {"seed": 3, "model": "cnn"}
    assert document["git_commit"] == "abc123"
    assert {"torch", "numpy", "smdl-flower"} <= set(document["versions"])


def test_settings_differ_unless_only_resume_from_does():
    base: dict[str, Scalar] = {"seed": 1, "resume-from": ""}
    assert config_sha256(base) == config_sha256({**base, "resume-from": "/somewhere"})
    assert config_sha256(base) != config_sha256({**base, "seed": 2})
