"""``smdl bench`` on the smallest run: right, resumable, and honest about what goes wrong."""

import dataclasses
import json
import shutil

import pytest

from smdl_flower import verifying, weights
from smdl_flower.attacks import catalogue
from smdl_flower.bench.plan import CONTROLS
from smdl_flower.errors import ConfigError, NotComparableError
from smdl_flower.evidence import Accusation, Witness

pytestmark = pytest.mark.e2e

FILTER = ("--attack", "prune", "--attack", "average")


@pytest.fixture(scope="module", autouse=True)
def _each_file_verified_once():
    """The same file has the same verdict: tests share them, for a verdict takes seconds."""
    real, verdicts = verifying.verify, {}

    def verify(home, path, **options):
        key = (home.path, weights.read(path).sha256, tuple(options.items()))
        if key not in verdicts:
            verdicts[key] = real(home, path, **options)
        return verdicts[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "verify", verify)
        yield


@pytest.fixture
def bench(smdl, journey, tmp_path):
    """Return a function that runs ``smdl bench --quick`` on some attacks, into a new folder."""

    def call(*arguments, attacks=FILTER, out="bench", as_json=True):
        extra = ("--json",) if as_json else ()
        where = ("--home", journey.home, "--out", tmp_path / out)
        return smdl("bench", journey.run, "--quick", *where, *attacks, *arguments, *extra)

    return call


@pytest.fixture(scope="module")
def finished(journey, tmp_path_factory, _each_file_verified_once):
    """The folder of a finished bench; not to be changed."""
    from smdl_flower.cli.main import run  # noqa: PLC0415

    out = tmp_path_factory.mktemp("finished") / "bench"
    arguments = ("bench", journey.run, "--quick", "--home", journey.home, "--out", out, *FILTER)
    assert run([str(a) for a in arguments]) == 0
    return out


@pytest.fixture
def interrupted(bench, finished, tmp_path):
    """The finished bench under the name that ``bench`` goes on with."""
    shutil.copytree(finished, tmp_path / "bench")
    return tmp_path / "bench" / "bench.json"


def by_attack(document):
    return {row["attack"]: row["results"] for row in document["rows"]}


def test_copies_are_traced_and_innocent_models_name_nobody(finished, journey):
    document = json.loads((finished / "bench.json").read_text())
    assert document["format"] == "smdl-bench/1"
    results = by_attack(document)
    assert set(results) == {*CONTROLS, "prune", "average"}
    for attack in ("unaltered", "prune", "average"):
        for result in results[attack]:
            assert sorted(t["customer"] for t in result["traces"]) == result["guilty"], attack
            assert sorted(result["guilty_scores"]) == result["guilty"]
            assert min(result["guilty_scores"].values()) > 20
    for attack in ("base-model", "new-model"):
        assert all(r["exit_code"] == 10 and r["traces"] == [] for r in results[attack])
    assert document["totals"]["wrongly_named"] == 0
    assert document["totals"]["innocents"] > 0
    assert all(r["guilty_scores"] == {} for r in results["base-model"] + results["new-model"])
    assert results["unaltered"][0]["noise"] == 0.0
    assert results["unaltered"][0]["bit_error_rate"] == 0.0
    assert results["unaltered"][0]["accuracy_after"] == results["unaltered"][0]["accuracy_before"]
    key = json.loads((journey.home / "master.key").read_text())["key"]
    for path in finished.iterdir():
        assert path.is_dir() or key not in path.read_text()
        assert path.stat().st_mode & 0o077 == 0


def test_a_coalition_has_an_efficiency_and_a_single_thief_has_none(finished):
    document = json.loads((finished / "bench.json").read_text())
    for row in document["rows"]:
        assert (row["efficiency"] is not None) == (row["block"] == "C")
    whole = [row["efficiency"] for row in document["rows"] if row["attack"] == "average"]
    assert all(e["noise"] < 1e-3 and 0.7 < e["eta"] < 1.1 for e in whole)
    assert {e["traced"] for e in whole} == {3}


def test_a_guilty_customer_who_is_not_named_has_a_score_too(bench, monkeypatch):
    real = verifying.verify

    def verify(*args, **kwargs):
        return dataclasses.replace(real(*args, **kwargs), accused=())

    monkeypatch.setattr(verifying, "verify", verify)
    (result,) = by_attack(bench(attacks=("--attack", "average")).document)["average"][:1]
    assert result["traces"] == []
    assert min(result["guilty_scores"].values()) > 20


def test_a_coalition_is_no_larger_than_the_customers_of_the_run(finished):
    document = json.loads((finished / "bench.json").read_text())
    sizes = [row["copies"] for row in document["rows"] if row["attack"] == "average"]
    assert sizes == [2, 3]


def test_a_page_and_a_table_say_the_same(bench, interrupted):
    printed = bench(as_json=False).out
    assert "0 of " in printed
    assert "innocents named" in " ".join(printed.split())
    assert "average x2" in printed
    assert "<svg" in interrupted.with_name("bench.html").read_text()


def test_a_bench_that_is_complete_is_not_repeated(bench, interrupted, monkeypatch):
    before = json.loads(interrupted.read_text())
    monkeypatch.setattr(verifying, "verify", lambda *_, **__: pytest.fail("verified again"))
    outcome = bench()
    assert outcome.code == 0
    assert outcome.document == before


def test_an_interrupted_bench_goes_on_where_it_was(bench, finished, tmp_path, monkeypatch):
    whole = json.loads((finished / "bench.json").read_text())
    count = sum(len(row["results"]) for row in whole["rows"])
    real, calls = verifying.verify, []

    def verify(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(verifying, "verify", verify)
    assert bench().code == 130
    written = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert sum(len(row["results"]) for row in written["rows"]) == 3
    assert written["totals"] is None
    resumed = bench()
    assert resumed.code == 0
    assert len(calls) == 4 + count - 3
    for before, after in zip(whole["rows"], resumed.document["rows"], strict=True):
        assert without_seconds(before) == without_seconds(after)


def without_seconds(row):
    results = [{k: v for k, v in r.items() if "seconds" not in k} for r in row["results"]]
    return {**row, "results": results}


def test_an_innocent_who_is_named_by_mistake_is_counted_and_shown(bench, monkeypatch):
    real = verifying.verify

    def verify(*args, **kwargs):
        verdict = real(*args, **kwargs)
        witness = Witness("carrier", 9.0, -17.0, -7.2, "carrier", 1)
        wrong = Accusation("customer-99", verdict.model_id, (witness,))
        return dataclasses.replace(verdict, accused=(*verdict.accused, wrong))

    monkeypatch.setattr(verifying, "verify", verify)
    document = bench(attacks=("--attack", "prune")).document
    for results in by_attack(document).values():
        for result in results:
            assert len(result["wrongly_named"]) == 1
            assert "customer-99" in result["wrongly_named"][0]
    assert document["totals"]["wrongly_named"] == document["totals"]["results"]
    printed = bench(attacks=("--attack", "prune"), as_json=False).out
    assert f"{document['totals']['results']} of {document['totals']['innocents']} innocents" in (
        " ".join(printed.split())
    )


def test_a_verdict_that_cannot_be_given_is_written_down_and_the_bench_goes_on(bench, monkeypatch):
    def verify(*_, **__):
        raise NotComparableError("too little is left")

    monkeypatch.setattr(verifying, "verify", verify)
    outcome = bench(attacks=("--attack", "prune"))
    assert outcome.code == 0
    for result in by_attack(outcome.document)["prune"]:
        assert (result["exit_code"], result["reason"]) == (11, "too little is left")
    assert outcome.document["totals"]["innocents"] == 0


def test_an_attack_that_the_model_does_not_allow_is_written_down(bench, monkeypatch):
    def refuse(*_):
        raise ConfigError("nothing to prune")

    monkeypatch.setattr(catalogue, "run", refuse)
    outcome = bench(attacks=("--attack", "prune"))
    assert outcome.code == 0
    for result in by_attack(outcome.document)["prune"]:
        assert (result["exit_code"], result["reason"]) == (None, "not tried: nothing to prune")


def test_a_model_for_another_task_is_measured_on_that_task(bench):
    (result,) = by_attack(bench(attacks=("--attack", "transfer")).document)["transfer"]
    assert result["accuracy_before"] is None
    assert result["accuracy_after"] > 0.3  # ten classes of MNIST, seen at 8 x 8 pixels


def test_results_that_were_edited_are_refused(bench, interrupted):
    text = interrupted.read_text()
    assert '"wrongly_named": []' in text
    interrupted.write_text(text.replace('"innocents": 2', '"innocents": 20000'))
    outcome = bench()
    assert outcome.code == 4
    assert "remove it to start anew" in outcome.err


def test_results_of_another_plan_are_not_mixed_in(bench, interrupted):
    outcome = bench(attacks=("--attack", "prune"))
    assert outcome.code == 2
    assert "different: plan_sha256" in outcome.err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "run.json").unlink(), "give a completed run's folder"),
        (lambda run: (run / "run.json").write_text("[]"), "give a completed run's folder"),
        (lambda run: (run / "run.json").write_text('{"status": "failed"}'), "issued no copies"),
        (lambda run: shutil.copy(run / "copies" / "customer-02.safetensors",
                                 run / "copies" / "customer-01.safetensors"), "not the copy"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_tried_is_refused_in_one_line(
    damage, message, smdl, journey, tmp_path
):
    shutil.copytree(journey.run, tmp_path / "run")
    damage(tmp_path / "run")
    outcome = smdl("bench", tmp_path / "run", "--quick", "--home", journey.home)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) <= 2  # the progress bar may come first


def test_a_run_of_a_version_with_other_keys_can_be_tried(smdl, journey, tmp_path):
    shutil.copytree(journey.run, tmp_path / "run")
    path = tmp_path / "run" / "resolved.json"
    resolved = json.loads(path.read_text())
    del resolved["config"]["fingerprint.code-length"]
    path.write_text(json.dumps(resolved | {"config": {**resolved["config"], "gone": 1}}))
    where = ("--home", journey.home, "--out", tmp_path / "bench")
    assert smdl("bench", tmp_path / "run", "--quick", *where, *FILTER).code == 0


def test_a_run_of_another_home_is_refused(smdl, journey, tmp_path):
    assert smdl("init", "--home", tmp_path / "other").code == 0
    outcome = smdl("bench", journey.run, "--quick", "--home", tmp_path / "other")
    assert outcome.code == 2
    assert "give its --home" in outcome.err
