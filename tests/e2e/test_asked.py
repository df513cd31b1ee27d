"""A model behind an interface: from a scenario with queries to the customer's name."""

import json

import pytest

pytestmark = pytest.mark.e2e

SCENARIO = """
scenario = "asked"
data = "digits"
num-participants = 3
num-server-rounds = 20
demo-customers = 3
fingerprint.code-length = 64
fingerprint.queries = 64
fingerprint.max-accuracy-drop = 0.06
"""

INTERFACE = """
from pathlib import Path
import torch
from smdl_flower import models, weights
from smdl_flower.models import ModelSpec

file = weights.read(Path({copy!r}))
network = models.from_weights(ModelSpec.from_metadata(file.metadata), file.weights)

def predict(images):
    with torch.no_grad():
        return network(torch.tensor(images).float() / 127.5 - 1).argmax(1).numpy()

def broken(images):
    return "cat"
"""


def test_whoever_serves_a_copy_is_named_from_its_labels(smdl, tmp_path, monkeypatch):
    home, run = tmp_path / "home", tmp_path / "run"
    assert smdl("init", "--home", home).code == 0
    from tests.e2e.conftest import ROOT  # noqa: PLC0415

    scenario = tmp_path / "asked.toml"
    scenario.write_text(SCENARIO)
    monkeypatch.chdir(ROOT)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text("utf-8"))
    for app in ("server_app", "client_app", "smdl_flower"):
        (tmp_path / app).symlink_to(ROOT / app)
    outcome = smdl(
        *("simulate", scenario, "--engine", "inline", "--home", home, "--out", run, "--json")
    )
    assert outcome.code == 0, outcome.err
    copies = {c["customer"]: c for c in outcome.document["copies"]}
    assert all(c["query_bits"] >= 63 for c in copies.values() if c["path"])
    assert copies["customer-02"]["path"], copies["customer-02"]["reason"]

    module = tmp_path / "interface_under_test.py"
    copy = run / copies["customer-02"]["path"]
    module.write_text(INTERFACE.format(copy=str(copy)))
    monkeypatch.syspath_prepend(str(tmp_path))
    report = tmp_path / "report"
    asked = ("verify", "--home", home, "--predictor", "interface_under_test:predict")
    verdict = smdl(*asked, "--json", "--report", report)
    assert verdict.code == 0, verdict.err
    assert [a["customer"] for a in verdict.document["accused"]] == ["customer-02"]
    assert verdict.document["accused"][0]["evidence"] == "queries"
    assert json.loads((report / "verdict.json").read_text()) == verdict.document
    assert "customer-02" in smdl(*asked).out
    assert "queries" not in smdl("verify", copy, "--home", home, "--json").document

    evidence = tmp_path / "evidence"
    assert smdl(*asked, "--report", evidence, "--disclose").code == 0
    monkeypatch.setenv("SMDL_HOME", str(tmp_path / "none"))  # the judge has no home
    assert_a_judge_agrees(smdl, evidence, copy)

    for arguments, code in (
        (("--predictor", "interface_under_test:broken"), 3),
        (("--predictor", "interface_under_test:missing"), 2),
        (("--predictor", "interface_under_test:predict", "--pool", "2"), 2),
        ((copy, "--predictor", "interface_under_test:predict"), 2),
        ((), 2),
    ):
        assert smdl("verify", *arguments, "--home", home).code == code


def assert_a_judge_agrees(smdl, evidence, copy):
    recorded = smdl("judge", evidence)
    assert recorded.code == 0
    assert "the owner's word" in " ".join(recorded.out.split())
    anew = ("judge", evidence, "--predictor", "interface_under_test:predict")
    assert "64 of 64 answers" in smdl(*anew).out
    judged = smdl(*anew, "--json").document
    assert (judged["valid"], judged["agreeing"]) == (True, 64)
    assert [c["customer"] for c in judged["confirmations"]] == ["customer-02"]
    assert smdl("judge", evidence, "--predictor", "interface_under_test:broken").code == 3
    assert smdl("judge", evidence, copy).code == 2
    assert smdl("judge", evidence, copy, "--predictor", "interface_under_test:predict").code == 2
    assert smdl("judge", evidence, "--protocol", "kserve").code == 2
