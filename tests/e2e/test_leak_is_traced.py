"""The story from end to end: train, issue, leak, trace; and innocents are left alone."""

import json

import numpy as np
import pytest

from smdl_flower import models, weights
from smdl_flower.models import ModelSpec

pytestmark = pytest.mark.e2e

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)


def test_the_run_folder_holds_what_design_promises(journey):
    names = {path.name for path in journey.run.iterdir()}
    assert {"scenario.toml", "resolved.json", "metrics.jsonl", "copies", "run.json"} <= names
    assert {"report.html", "privacy.json", "flower.log"} <= names
    assert "checkpoint" not in names  # it is unmarked
    lines = (journey.run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]
    outcome = json.loads((journey.run / "run.json").read_text())
    assert outcome["base_accuracy"] == json.loads(lines[-1])["accuracy"] > 0.8
    assert [copy["matching_bits"] for copy in outcome["copies"]] == [304, 304, 304]
    assert json.loads((journey.run / "privacy.json").read_text())["epsilon"] is None


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_copy_names_its_customer_and_nobody_else(number, journey, smdl):
    verdict = smdl("verify", journey.copy(number), "--home", journey.home, "--json")
    assert verdict.code == 0
    (accused,) = verdict.document["accused"]
    assert accused["customer"] == f"customer-{number:02d}"
    assert accused["log10_p"] <= -100
    assert verdict.document["payload"]["matching_bits"] == 304
    assert verdict.document["highest_unnamed_score"] < 6


def test_a_pruned_and_fine_tuned_copy_is_traced(journey, smdl, tmp_path):
    pruned, leaked = tmp_path / "pruned.safetensors", tmp_path / "leaked.safetensors"
    attack = smdl(
        *("attack", "prune", journey.copy(2), "--set", "fraction=0.5", "--out", pruned),
        *("--data", "digits", "--json"),
    )
    assert attack.document["accuracy"] > 0.7
    settings = ("--set", "data=digits", "--set", "images=300", "--set", "epochs=3")
    tuned = smdl("attack", "fine-tune", pruned, *settings, "--out", leaked)
    assert tuned.code == 0
    verdict = smdl(
        *("verify", leaked, "--home", journey.home, "--report", tmp_path / "evidence"), "--json"
    )
    assert [a["customer"] for a in verdict.document["accused"]] == ["customer-02"]
    assert json.loads((tmp_path / "evidence" / "verdict.json").read_text()) == verdict.document
    page = (tmp_path / "evidence" / "report.html").read_text()
    assert "customer-02" in page
    assert "<svg" in page


def test_two_customers_who_average_their_copies_are_both_named(journey, smdl, tmp_path):
    merged = tmp_path / "merged.safetensors"
    assert smdl("attack", "average", journey.copy(1), journey.copy(3), "--out", merged).code == 0
    verdict = smdl("verify", merged, "--home", journey.home, "--json")
    named = {accused["customer"] for accused in verdict.document["accused"]}
    assert named == {"customer-01", "customer-03"}


def innocents(journey, tmp_path, smdl):
    """Yield files that nobody may be accused for."""
    (base,) = (journey.home / "vault").glob("*/base.safetensors")
    yield base
    fresh = tmp_path / "fresh.safetensors"
    weights.write(fresh, models.to_weights(models.build(SPEC, seed=99)))
    yield fresh
    other = tmp_path / "other-home"
    assert smdl("init", "--home", other).code == 0
    assert smdl("customer", "add", "customer-01", "--home", other).code == 0
    issued = smdl(
        *("issue", base, "--arch", "cnn", "--channels", 1, "--image-size", 8, "--home", other),
        *("--out", tmp_path / "others", "--data", "digits"),
    )
    assert issued.code == 0
    yield tmp_path / "others" / "customer-01.safetensors"  # same model, same name, another owner


def test_nobody_is_named_for_an_innocent_model(journey, tmp_path, smdl):
    for suspect in innocents(journey, tmp_path, smdl):
        verdict = smdl("verify", suspect, "--home", journey.home, "--json")
        assert verdict.code == 10
        assert verdict.document["accused"] == []
        assert verdict.document["payload"]["best_match"] is None
        assert "customer-" not in json.dumps(verdict.document["payload"])


def test_a_model_trained_elsewhere_is_issued_and_traced(journey, tmp_path, smdl):
    model = tmp_path / "elsewhere.safetensors"
    weights.write(model, models.to_weights(models.build(SPEC, seed=5)), SPEC.to_metadata())
    home = tmp_path / "home"
    smdl("init", "--home", home)
    smdl("customer", "add", "clinic-a", "bank-b", "--home", home)
    issued = smdl(
        *("issue", model, "--home", home, "--out", tmp_path / "copies"),
        *("--no-fidelity-check", "--json"),
    )
    assert [copy["customer"] for copy in issued.document["copies"]] == ["clinic-a", "bank-b"]
    suspect = weights.read(tmp_path / "copies" / "bank-b.safetensors").weights
    half = tmp_path / "half.safetensors"
    weights.write(half, {k: v.astype(np.float16).astype(np.float32) for k, v in suspect.items()})
    verdict = smdl("verify", half, "--home", home, "--json")
    assert [a["customer"] for a in verdict.document["accused"]] == ["bank-b"]


def test_copies_tell_nothing_about_their_customer(journey):
    for number in (1, 2, 3):
        content = journey.copy(number).read_bytes()
        assert b"customer" not in content
    files = [weights.read(journey.copy(n)).metadata for n in (1, 2, 3)]
    assert files[0] == files[1] == files[2]


def test_no_secret_is_in_anything_a_run_or_a_verdict_writes(journey, smdl, tmp_path):
    key = json.loads((journey.home / "master.key").read_text())["key"]
    smdl("verify", journey.copy(1), "--home", journey.home, "--report", tmp_path / "evidence")
    written = [*journey.run.rglob("*"), *(tmp_path / "evidence").rglob("*")]
    for path in written:
        if path.is_file():
            assert key.encode() not in path.read_bytes()
