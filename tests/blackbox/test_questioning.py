"""Verdicts on models that can only be asked: the leaker is named, and nobody else ever is."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from smdl_flower import issuing, models, vault, verdict_page
from smdl_flower.attacks import altering, collusion
from smdl_flower.blackbox.answering import TESTS
from smdl_flower.config import FingerprintConfig
from smdl_flower.errors import ConfigError, IntegrityError, NotComparableError, SuspectAnswersError
from smdl_flower.fingerprint.accusation import PayloadTest
from smdl_flower.home import OwnerHome
from smdl_flower.interface.obstacles import Obstacle
from smdl_flower.interface.pixels import Scale, scaled
from smdl_flower.interface.serving import Kind, Served, Telling
from smdl_flower.issuing import Campaign, FidelityGate, IssueResult
from smdl_flower.questioning import Question, question
from smdl_flower.verifying import verify
from smdl_flower.weights import Weights
from smdl_flower.weights import read as read_weights
from tests.blackbox.conftest import CUSTOMERS, SPEC, Digits, new_home, trained


def served(weights: Weights, *, labels_only: bool = True):
    """What a thief puts behind an interface."""
    network = models.from_weights(SPEC, weights)

    def predict(images):
        with torch.no_grad():
            said = network(torch.tensor(images).float() / 127.5 - 1)
        return said.argmax(1).numpy() if labels_only else said.softmax(1).numpy().round(2)

    return predict


def named(home: OwnerHome, predictor, **what) -> list[str]:
    return [a.customer for a in question(home, predictor, "suspect", Question(**what)).accused]


def test_every_copy_was_issued_with_its_answers_in_both_fingerprints(
    asked_results: dict[str, IssueResult],
) -> None:
    for result in asked_results.values():
        assert result.reason == ""
        assert result.matching_bits == 304
        assert result.query_bits is not None
        assert result.query_bits >= 0.98 * 128


@pytest.mark.parametrize("labels_only", [True, False])
@pytest.mark.parametrize("pool", [1, 2])
def test_a_served_copy_names_its_customer_alone(
    asked_home: OwnerHome, asked_copies: dict[str, Weights], labels_only: bool, pool: int
) -> None:
    for customer, copy in asked_copies.items():
        what = Question(pool=pool)
        verdict = question(asked_home, served(copy, labels_only=labels_only), "s", what)
        assert [a.customer for a in verdict.accused] == [customer]
        assert verdict.exit_code == 0
        assert all(w.evidence == "queries" for w in verdict.accused[0].witnesses)
        assert verdict.accused[0].witnesses[0].log10_p <= -17  # 2^-64 is 10^-19.3
        assert verdict.payload.best_match == customer
        assert verdict.queries is not None
        assert verdict.queries.pool == pool
        assert verdict.queries.probabilities == (not labels_only)


def test_the_bound_is_shared_among_customers_tests_and_pools(
    asked_home: OwnerHome, asked_copies: dict[str, Weights]
) -> None:
    verdict = question(asked_home, served(asked_copies["bank-a"]), "s", Question())
    assert verdict.customers == len(CUSTOMERS)
    assert verdict.hypotheses == 2 * TESTS
    threshold = math.log10(6 / math.pi**2 * 1e-6 / 3 / (2 * TESTS))
    for witness in verdict.accused[0].witnesses:
        assert witness.threshold == pytest.approx(threshold, rel=1e-12)


@pytest.mark.parametrize("suspect", ["w0", "another model", "other owner's copy", "one class"])
def test_a_model_that_is_no_copy_of_this_owners_names_nobody(
    asked_home: OwnerHome,
    asked_copies: dict[str, Weights],
    taught_base: Weights,
    asked_config: FingerprintConfig,
    digits: Digits,
    tmp_path: Path,
    suspect: str,
) -> None:
    assert asked_copies
    if suspect == "w0":
        predictor = served(taught_base)
    elif suspect == "another model":
        predictor = served(trained(digits, seed=5))
    elif suspect == "other owner's copy":
        other = new_home(tmp_path / "other", b"another owner")
        gate = FidelityGate(digits.test, 1.0)
        campaign = issuing.open_campaign(other, SPEC, taught_base, asked_config, gate)
        (result,) = issuing.issue(other, campaign, ["bank-a"], tmp_path / "copies")
        assert result.path is not None
        theirs = read_weights(result.path).weights
        assert named(other, served(theirs)) == ["bank-a"]
        predictor = served(theirs)
    else:
        predictor = lambda x: np.full(len(x), 3)  # noqa: E731
    verdict = question(asked_home, predictor, "s", Question())
    assert verdict.accused == ()
    assert verdict.exit_code == 10
    assert verdict.payload.best_match is None
    assert "Nobody is named" in verdict.summary()


@pytest.mark.parametrize("attack", ["prune", "quantize", "average of two"])
def test_altered_copies_answer_for_their_customers_or_for_nobody(
    asked_home: OwnerHome, asked_copies: dict[str, Weights], attack: str
) -> None:
    a, b = asked_copies["bank-a"], asked_copies["bank-b"]
    if attack == "prune":
        assert named(asked_home, served(altering.prune(a, 0.3))) == ["bank-a"]
    elif attack == "quantize":
        assert named(asked_home, served(altering.quantize(a, 6))) == ["bank-a"]
    else:
        # 64 bits are too few to be sure of two; nobody else is named.
        found = named(asked_home, served(collusion.average([a, b]), labels_only=False))
        assert set(found) <= {"bank-a", "bank-b"}


def test_a_file_of_the_same_copy_is_traced_by_its_weights_as_ever(
    asked_home: OwnerHome, asked_results: dict[str, IssueResult]
) -> None:
    path = asked_results["bank-c"].path
    assert path is not None
    verdict = verify(asked_home, path)
    assert [a.customer for a in verdict.accused] == ["bank-c"]
    assert verdict.queries is None
    assert verdict.payload.matching_bits == 304
    # What was taught is noise to the carrier: less than without, and beyond doubt all the same.
    assert verdict.accused[0].witnesses[0].score > 100


def test_refused_copies_words_count_too(
    asked_copy: OwnerHome, asked_campaign: Campaign, asked_copies: dict[str, Weights]
) -> None:
    model_id = asked_campaign.model.model_id
    asked_copy.registry.add_customers(["late"])
    asked_copy.registry.record_refusal(model_id, "late", "too few answers")
    verdict = question(asked_copy, served(asked_copies["bank-a"]), "s", Question())
    assert verdict.customers == len(CUSTOMERS) + 1


def test_nobody_is_accused_where_decoys_do_not_score_as_innocents_must(
    asked_home: OwnerHome, asked_copies: dict[str, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = PayloadTest.log_p
    monkeypatch.setattr(PayloadTest, "log_p", lambda test, score: 2 * exact(test, score))
    with pytest.raises(NotComparableError, match="never issued"):
        question(asked_home, served(asked_copies["bank-a"]), "s", Question())


def test_a_hostile_predictor_ends_in_exit_code_3_and_no_verdict(asked_home: OwnerHome) -> None:
    def fail(_):
        raise ConnectionError("refused")

    with pytest.raises(SuspectAnswersError, match=r"model [0-9a-f]{16}: .*refused"):
        question(asked_home, fail, "s", Question())


@pytest.mark.parametrize(
    "what",
    [{"pool": 3}, {"pool": 0}, {"model_id": "0" * 16}, {"max_false_accusation": 0.5}],
)
def test_questions_that_cannot_be_put_are_refused(
    asked_home: OwnerHome, asked_campaign: Campaign, what: dict[str, object]
) -> None:
    with pytest.raises(ConfigError):
        named(asked_home, lambda x: np.zeros(len(x), np.int64), **what)


def test_a_home_without_queries_cannot_ask(issued_home: OwnerHome, campaign: Campaign) -> None:
    with pytest.raises(ConfigError, match=r"fingerprint\.queries"):
        named(issued_home, lambda x: np.zeros(len(x), np.int64))


def test_the_queries_come_back_from_the_vault_as_they_were_and_changes_are_noticed(
    asked_copy: OwnerHome, asked_campaign: Campaign
) -> None:
    bank = asked_campaign.model.queries
    assert bank is not None
    (model,) = asked_copy.base_models()
    assert model.queries is not None
    assert model.queries.code == bank.code
    for stored, made in zip(model.queries.pools, bank.pools, strict=True):
        assert (stored.images == made.images).all()
        assert (stored.answers == made.answers).all()
    file = asked_copy.path / "vault" / model.model_id / vault._pool_file(2)
    assert file.stat().st_mode & 0o777 == 0o600
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"queries-2\.bin"):
        asked_copy.base_models()
    file.unlink()
    with pytest.raises(IntegrityError, match=r"queries-2\.bin"):
        asked_copy.base_models()


@pytest.mark.parametrize("change", [{"queries": 65}, {"query_pools": 1}, {"queries": 0}])
def test_a_campaign_with_other_queries_is_refused(
    asked_copy: OwnerHome,
    taught_base: Weights,
    asked_config: FingerprintConfig,
    digits: Digits,
    change: dict[str, int],
) -> None:
    gate = FidelityGate(digits.test, 0.04)
    config = asked_config.model_copy(update=change)
    with pytest.raises(ConfigError, match="issued before"):
        issuing.open_campaign(asked_copy, SPEC, taught_base, config, gate)


@pytest.mark.parametrize(
    ("change", "images", "reason"),
    [({"queries": 63}, True, "at least 64"), ({}, False, "public images")],
)
def test_queries_that_prove_nothing_or_cannot_be_taught_are_refused(
    asked_copy: OwnerHome,
    asked_config: FingerprintConfig,
    digits: Digits,
    change: dict[str, int],
    images: bool,
    reason: str,
) -> None:
    base = models.to_weights(models.build(SPEC, seed=8))
    gate = FidelityGate(digits.test if images else None, 0.04)
    config = asked_config.model_copy(update=change)
    with pytest.raises(ConfigError, match=reason):
        issuing.open_campaign(asked_copy, SPEC, base, config, gate)
    assert len(asked_copy.registry.models()) == 1


def test_copies_are_measured_on_images_that_they_are_not_taught_with(
    asked_campaign: Campaign, digits: Digits
) -> None:
    measured = asked_campaign.gate.images
    assert measured is not None
    assert torch.equal(measured.pixels, digits.test.pixels[::2])
    teacher = asked_campaign.teacher
    assert teacher is not None
    taught = teacher.tail.features(digits.test.inputs(slice(1, None, 2)), teacher.basis)
    rehearsed = teacher.rehearsal.projected[: len(taught)]
    assert torch.allclose(rehearsed, taught.projected, atol=1e-4)


def test_the_verdicts_document_and_page_say_what_was_asked(
    asked_home: OwnerHome, asked_copies: dict[str, Weights], tmp_path: Path
) -> None:
    what = Question(pool=1)
    verdict = question(asked_home, served(asked_copies["bank-b"]), "api:predict", what)
    document = json.loads(json.dumps(verdict.to_json()))
    assert document["suspect"]["kind"] == "predictor"
    assert document["suspect"]["path"] == "api:predict"
    assert document["queries"] == {
        "pool": 1,
        "images": 64,
        "one_of_two": verdict.queries.one_of_two if verdict.queries else None,
        "probabilities": False,
    }
    assert document["accused"][0]["evidence"] == "queries"
    verdict_page.write(verdict, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Pool 1 of its questions: 64 images" in page
    assert "trained anew" in page


def test_each_suspect_is_asked_a_pool_that_nobody_knows_and_the_same_again(
    asked_campaign: Campaign, asked_copies: dict[str, Weights], tmp_path: Path
) -> None:
    home = new_home(tmp_path / "fresh", b"asked")
    bank = asked_campaign.model.queries
    assert bank is not None
    digest = home.vault.save(asked_campaign.model)
    home.registry.record_model(asked_campaign.model.model_id, digest)
    predictor = served(asked_copies["bank-a"])

    def heard(name: str, pool: int | None = None) -> tuple[int, str]:
        verdict = question(home, predictor, name, Question(pool=pool))
        assert verdict.queries is not None
        return verdict.queries.pool, " ".join(verdict.remarks)

    pool, remarks = heard("https://a.example/")
    assert pool == 1
    assert "ask another one pool 2" in remarks
    assert heard("https://a.example/")[0] == 1
    pool, remarks = heard("https://b.example/")
    assert pool == 2
    assert "all 2 pools are disclosed" in remarks
    assert "other suspect" not in remarks
    pool, remarks = heard("https://c.example/")
    assert pool == 1
    assert "asked of 1 other suspect(s) before" in remarks
    assert "a.example" not in remarks  # no verdict tells of other suspects
    assert heard("https://a.example/", pool=2)[0] == 2
    assert heard("https://a.example/")[0] == 2

    again = OwnerHome.open(home.path)
    asked = again.registry.asked(asked_campaign.model.model_id)
    assert [(r.pool, r.suspect[8]) for r in asked] == [(1, "a"), (2, "b"), (1, "c"), (2, "a")]


def test_a_pool_is_disclosed_in_the_registry_before_the_first_question(
    asked_copy: OwnerHome, asked_campaign: Campaign
) -> None:
    seen: list[int] = []

    def look(_):
        seen.extend(r.pool for r in asked_copy.registry.asked(asked_campaign.model.model_id))
        raise ConnectionError

    with pytest.raises(SuspectAnswersError):
        question(asked_copy, look, "https://new.example/", Question(pool=2))
    assert seen[-1] == 2


def test_an_interrupted_examination_goes_on_to_the_same_verdict(
    asked_copy: OwnerHome, asked_copies: dict[str, Weights]
) -> None:
    predictor = served(asked_copies["bank-c"])
    asked: list[NDArray[np.uint8]] = []

    def broken(images):
        if len(asked) >= 20:
            raise ConnectionError("reset")
        asked.append(images)
        return predictor(images)

    what = Question(pool=1, batch=1, logs=asked_copy.path / "asked")
    with pytest.raises(SuspectAnswersError, match=r"reset.*20 of 64 answers are kept"):
        question(asked_copy, broken, "https://x.example/", what)

    def rest(images):
        asked.append(images)
        return predictor(images)

    verdict = question(asked_copy, rest, "https://x.example/", what)
    assert [a.customer for a in verdict.accused] == ["bank-c"]
    assert any("20 of 64 answers are from" in remark for remark in verdict.remarks)
    assert len({image.tobytes() for image in asked}) == len(asked) == 64
    whole = question(asked_copy, predictor, "https://y.example/", Question(pool=1))
    assert whole.suspect.sha256 == verdict.suspect.sha256
    assert whole.accused == verdict.accused


@pytest.mark.parametrize("kind", ["labels", "noised", "rounded", "logits", "likeliest"])
def test_whatever_kind_of_answers_a_copy_gives_its_customer_is_named_alone(
    asked_home: OwnerHome, asked_copies: dict[str, Weights], taught_base: Weights, kind: str
) -> None:
    def told(weights: Weights):
        network = models.from_weights(SPEC, weights)
        rng = np.random.default_rng(4)

        def predict(images):
            with torch.no_grad():
                logits = network(torch.tensor(images).float() / 127.5 - 1)
            shares = logits.softmax(1).double().numpy()
            likeliest = [{int(c): float(row[c]) for c in np.argsort(-row)[:2]} for row in shares]
            return {
                "labels": logits.argmax(1).numpy(),
                "noised": shares + rng.normal(0, 0.05, shares.shape),
                "rounded": shares.round(1),
                "logits": logits.numpy(),
                "likeliest": likeliest,
            }[kind]

        return predict

    assert named(asked_home, told(asked_copies["bank-b"])) == ["bank-b"]
    assert named(asked_home, told(taught_base)) == []


@pytest.mark.parametrize("obstacle", Obstacle)
def test_what_stands_in_front_of_a_copy_accuses_nobody_else(
    asked_home: OwnerHome,
    asked_copies: dict[str, Weights],
    taught_base: Weights,
    obstacle: Obstacle,
) -> None:
    """Images of 8 pixels bear little; whom 304 queries of 28 pixels name is in decisions/0011."""

    def behind(weights: Weights):
        serving = Served(SPEC, weights, Telling(Kind.LABELS, obstacles=(obstacle,)))
        return lambda images: serving.answer(scaled(images, Scale.SIGNED))

    found = named(asked_home, behind(asked_copies["bank-b"]))
    if obstacle in (Obstacle.DEPTH, Obstacle.JPEG_75, Obstacle.NOISE):
        assert found == ["bank-b"]
    assert set(found) <= {"bank-b"}
    assert named(asked_home, behind(taught_base)) == []


def test_a_verdict_says_when_a_suspect_does_not_seem_to_see_the_images(
    asked_home: OwnerHome, asked_copies: dict[str, Weights], taught_base: Weights
) -> None:
    def warned(predictor) -> bool:
        verdict = question(asked_home, predictor, "suspect", Question(pool=1))
        return any("--pixels" in remark for remark in verdict.remarks)

    copy = served(asked_copies["bank-a"])
    assert not warned(copy)
    assert not warned(served(taught_base))
    assert warned(lambda images: copy(255 - images))
