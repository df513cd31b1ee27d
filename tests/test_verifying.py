"""Verdicts: the leaker is named, nobody else is, and no verdict rests on what was tampered with."""

import json
import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from smdl_flower import issuing, models, weights
from smdl_flower.attacks import altering, catalogue, collusion
from smdl_flower.config import FingerprintConfig
from smdl_flower.errors import ConfigError, IntegrityError, NotComparableError, SuspectFileError
from smdl_flower.evidence import NOT_SHOWN
from smdl_flower.fingerprint import carriers, embedding
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import Campaign, FidelityGate
from smdl_flower.models import ModelSpec
from smdl_flower.verifying import verify
from smdl_flower.weights import Weights

UNCHECKED = FidelityGate(images=None, max_accuracy_drop=0.0)
pytestmark = pytest.mark.usefixtures("issue_results")  # eight copies are issued and recorded


@pytest.fixture(scope="session")
def other_base(spec: ModelSpec) -> Weights:
    return models.to_weights(models.build(spec, seed=99))


@pytest.fixture(scope="session")
def two_campaigns(
    tmp_path_factory: pytest.TempPathFactory,
    spec: ModelSpec,
    base: Weights,
    other_base: Weights,
    fingerprint_config: FingerprintConfig,
) -> OwnerHome:
    """Another owner: two customers have a copy of ``base``, three of ``other_base``."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnerKey, "generate", lambda: OwnerKey(b"two campaigns".ljust(32)))
        home = OwnerHome.create(folder / "home")
    home.registry.add_customers(["clinic-a", "clinic-b", "bank-c"])
    for name, model, count in (("first", base, 2), ("second", other_base, 3)):
        campaign = issuing.open_campaign(home, spec, model, fingerprint_config, UNCHECKED)
        customers = home.registry.customers()[:count]
        assert all(r.path for r in issuing.issue(home, campaign, customers, folder / name))
    return home


def write(path: Path, suspect: Weights) -> Path:
    weights.write(path, suspect)
    return path


# ------------------------------------------------------------------------------------- the guilty


def test_a_leaked_copy_names_its_customer_alone_and_beyond_doubt(
    issued_home: OwnerHome, copy_paths: dict[str, Path], campaign: Campaign
) -> None:
    for name in ("clinic-a", "clinic-h"):
        verdict = verify(issued_home, copy_paths[name])
        assert [accusation.customer for accusation in verdict.accused] == [name]
        assert verdict.exit_code == 0
        assert verdict.model_id == verdict.accused[0].model_id == campaign.model.model_id
        carrier, *decoders = verdict.accused[0].witnesses
        assert carrier.evidence == "carrier"
        assert {w.test for w in decoders} == {"symmetric", "oosterwijk", "likelihood"}
        assert carrier.log10_p <= -100
        # All 304 bits agree: 2^-304 = 10^-91.5, but for positions whose weight rounds to zero.
        assert all(w.evidence == "payload" and w.log10_p <= -90 for w in decoders)
        assert all(w.stage == 1 for w in verdict.accused[0].witnesses)
        assert carrier.log10_p == pytest.approx(-(carrier.score**2) / 2 / math.log(10), rel=1e-12)
        assert verdict.payload.best_match == name
        assert (verdict.payload.matching_bits, verdict.payload.bit_error_rate) == (304, 0.0)
        assert verdict.customers == 8
        assert verdict.hypotheses == 8
        # The next customer: below sqrt(2 ln(8 x 8 x pi^2 / 6 / 1e-6)) = 6.08.
        assert verdict.highest_unnamed_score is not None
        assert verdict.highest_unnamed_score < 6.08
        assert verdict.remarks == ()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_same_copy_stored_in_another_precision_gives_the_same_verdict(
    issued_home: OwnerHome, copies: dict[str, Weights], tmp_path: Path, dtype: str
) -> None:
    stored = {name: array.astype(dtype) for name, array in copies["clinic-d"].items()}
    safetensors.numpy.save_file(stored, tmp_path / "suspect.safetensors")
    verdict = verify(issued_home, tmp_path / "suspect.safetensors")
    assert [accusation.customer for accusation in verdict.accused] == ["clinic-d"]
    assert verdict.payload.matching_bits == 304


def test_all_members_of_a_coalition_are_named_the_most_certain_first(
    issued_home: OwnerHome, copies: dict[str, Weights], tmp_path: Path
) -> None:
    traitors = {"clinic-b", "clinic-c", "clinic-g"}
    average = collusion.average([copies[name] for name in traitors])
    verdict = verify(issued_home, write(tmp_path / "s.safetensors", average))
    assert {accusation.customer for accusation in verdict.accused} == traitors
    certainty = [accusation.witnesses[0].log10_p for accusation in verdict.accused]
    assert certainty == sorted(certainty)
    assert certainty[-1] <= -100
    assert len(verdict.carrier_scores) == 8
    assert list(verdict.carrier_scores) == sorted(verdict.carrier_scores)
    assert verdict.highest_unnamed_score == verdict.carrier_scores[4]


def test_the_threshold_is_shared_among_all_words_tests_and_stages(
    issued_home: OwnerHome, copy_paths: dict[str, Path]
) -> None:
    for bound in (1e-12, 1e-6, 0.01):
        verdict = verify(issued_home, copy_paths["clinic-a"], max_false_accusation=bound)
        for witness in verdict.accused[0].witnesses:
            assert witness.threshold == pytest.approx(
                math.log10(6 / math.pi**2 * bound / 8 / 8), rel=1e-12
            )
            assert witness.log10_p <= witness.threshold


def test_a_pruned_copy_names_its_customer_and_how_much_is_erased(
    issued_home: OwnerHome, copies: dict[str, Weights], tmp_path: Path
) -> None:
    pruned = altering.prune(copies["clinic-a"], 0.5)
    verdict = verify(issued_home, write(tmp_path / "s.safetensors", pruned))
    assert [accusation.customer for accusation in verdict.accused] == ["clinic-a"]
    assert verdict.remarks == ("50.0% of the marked weights are zero",)


@pytest.mark.parametrize("side", ["just reaches", "just misses"])
def test_a_score_accuses_from_the_threshold_on(
    issued_home: OwnerHome,
    base: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    side: str,
) -> None:
    threshold = Level(total=1e-6, words=8, hypotheses=8).carrier_threshold()
    score = threshold * (1 + 1e-12) if side == "just reaches" else threshold * (1 - 1e-12)
    monkeypatch.setattr(
        carriers, "score", lambda key, _: 0.0 if key.customer.startswith("decoy/") else score
    )
    verdict = verify(issued_home, write(tmp_path / "s.safetensors", base))
    assert len(verdict.accused) == (8 if side == "just reaches" else 0)
    if verdict.accused:  # the payload does not reach its own threshold and is no witness
        assert {len(accusation.witnesses) for accusation in verdict.accused} == {1}


def test_nobody_is_accused_where_decoys_do_not_score_as_innocents_must(
    issued_home: OwnerHome, copy_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = carriers.score
    monkeypatch.setattr(carriers, "score", lambda key, q: honest(key, q) + 0.5)
    with pytest.raises(NotComparableError, match="never issued a copy"):
        verify(issued_home, copy_paths["clinic-a"])


# ------------------------------------------------------------------------------------ the innocent


@pytest.mark.parametrize("origin", ["w0", "another model", "noise", "w0 and noise"])
def test_a_model_that_is_no_copy_names_nobody(
    issued_home: OwnerHome, base: Weights, other_base: Weights, tmp_path: Path, origin: str
) -> None:
    rng = np.random.default_rng(8)
    noise = {n: rng.standard_normal(a.shape, dtype=np.float32) for n, a in base.items()}
    suspects: dict[str, Weights] = {
        "w0": base,
        "another model": other_base,
        "noise": noise,
        "w0 and noise": {n: a + np.float32(0.01) * noise[n] for n, a in base.items()},
    }
    verdict = verify(issued_home, write(tmp_path / "s.safetensors", suspects[origin]))
    assert verdict.accused == ()
    assert verdict.exit_code == 10
    assert verdict.payload.best_match is None
    # The best of eight is reported without a name; Bin(304, 1/2) stays below 152 + 7 x 8.72.
    assert 0 < verdict.payload.matching_bits < 213
    assert verdict.payload.bit_error_rate == 1 - verdict.payload.matching_bits / 304
    unmarked = "equals base model" in " ".join(verdict.remarks)
    assert unmarked == (origin == "w0")


def test_another_owners_copy_of_the_same_base_names_nobody(
    issued_home: OwnerHome, two_campaigns: OwnerHome, copy_paths: dict[str, Path]
) -> None:
    theirs = two_campaigns.path.parent / "first" / "clinic-a.safetensors"
    assert verify(issued_home, theirs).accused == ()
    assert verify(two_campaigns, copy_paths["clinic-a"]).accused == ()
    assert [a.customer for a in verify(two_campaigns, theirs).accused] == ["clinic-a"]


def test_a_copy_that_was_never_issued_names_nobody(
    home_copy: OwnerHome, campaign: Campaign, tmp_path: Path
) -> None:
    # Enrolled and embedded, but never recorded: nobody was given this file.
    home_copy.registry.add_customers(["enrolled"])
    key = campaign.model.key(home_copy.key).customer("enrolled")
    vector = embedding.embed(campaign.mark, key)
    copy = campaign.mark.layout.restore(campaign.model.weights, vector)
    path = write(tmp_path / "s.safetensors", copy)
    verdict = verify(home_copy, path)
    assert verdict.accused == ()
    assert verdict.customers == 8
    home_copy.registry.record_copy(campaign.model.model_id, "enrolled", weights.digest(copy))
    verdict = verify(home_copy, path)
    assert [accusation.customer for accusation in verdict.accused] == ["enrolled"]
    assert verdict.customers == 9


def test_a_campaign_without_copies_names_nobody_and_says_why(
    tmp_path: Path, campaign: Campaign, copy_paths: dict[str, Path]
) -> None:
    home = OwnerHome.create(tmp_path / "home")
    home.registry.record_model(campaign.model.model_id, home.vault.save(campaign.model))
    verdict = verify(home, copy_paths["clinic-a"])
    assert verdict.exit_code == 10
    assert verdict.customers == 0
    assert verdict.highest_unnamed_score is None
    assert any("no copy of model" in remark for remark in verdict.remarks)


# ---------------------------------------------------------------------------------- two campaigns


@pytest.mark.parametrize(("name", "customer"), [("first", "clinic-a"), ("second", "bank-c")])
def test_with_two_campaigns_the_right_model_is_named_and_all_words_count(
    two_campaigns: OwnerHome, base: Weights, other_base: Weights, name: str, customer: str
) -> None:
    path = two_campaigns.path.parent / name / f"{customer}.safetensors"
    digest = weights.digest(base if name == "first" else other_base)
    verdict = verify(two_campaigns, path)
    assert [(a.customer, a.model_id) for a in verdict.accused] == [(customer, digest[:16])]
    assert verdict.model_id == digest[:16]
    assert verdict.customers == 2 + 3
    threshold = math.log10(6 / math.pi**2 * 1e-6 / 5 / 8)
    assert verdict.accused[0].witnesses[0].threshold == pytest.approx(threshold, rel=1e-12)
    assert verdict.payload.matching_bits == 304


def test_asked_about_one_model_only_its_words_count(
    two_campaigns: OwnerHome, base: Weights, other_base: Weights
) -> None:
    path = two_campaigns.path.parent / "second" / "clinic-b.safetensors"
    ours, theirs = (weights.digest(model)[:16] for model in (other_base, base))
    assert verify(two_campaigns, path, model_id=ours).customers == 3
    other = verify(two_campaigns, path, model_id=theirs)
    assert (other.customers, other.accused, other.model_id) == (2, (), theirs)
    with pytest.raises(ConfigError, match="no-such-model"):
        verify(two_campaigns, path, model_id="no-such-model")


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("bound", [0.0, -1e-6, 0.0100001, 1.0, math.nan, math.inf])
def test_a_bound_that_is_none_is_refused(
    issued_home: OwnerHome, copy_paths: dict[str, Path], bound: float
) -> None:
    with pytest.raises(ConfigError, match=r"above 0 and at most 0\.01"):
        verify(issued_home, copy_paths["clinic-a"], max_false_accusation=bound)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM smdl_registry_1 WHERE number = 3",
        "DELETE FROM smdl_registry_1 WHERE kind = 'copy'",
        "UPDATE smdl_registry_1 SET body = replace(body, 'clinic-a', 'clinic-b')",
    ],
)
def test_no_verdict_rests_on_a_registry_that_was_tampered_with(
    home_copy: OwnerHome, copy_paths: dict[str, Path], statement: str
) -> None:
    connection = sqlite3.connect(home_copy.path / "registry.db")
    with connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(IntegrityError):
        verify(OwnerHome.open(home_copy.path), copy_paths["clinic-a"])


@pytest.mark.parametrize("name", ["base.safetensors", "profile.safetensors", "model.json"])
def test_no_verdict_rests_on_a_vault_that_was_tampered_with(
    home_copy: OwnerHome, copy_paths: dict[str, Path], name: str
) -> None:
    (path,) = (home_copy.path / "vault").glob(f"*/{name}")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        verify(home_copy, copy_paths["clinic-a"])


def test_an_unsafe_suspect_is_refused(issued_home: OwnerHome, tmp_path: Path) -> None:
    (tmp_path / "suspect.pt").write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    with pytest.raises(SuspectFileError, match=r"pickle: holds no tensor .* call 'posix\.system'"):
        verify(issued_home, tmp_path / "suspect.pt")


def test_a_home_without_models_says_so(tmp_path: Path, copy_paths: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="no issued model yet"):
        verify(OwnerHome.create(tmp_path / "home"), copy_paths["clinic-a"])


def test_a_suspect_of_other_shapes_is_inconclusive_and_the_tensors_are_named(
    issued_home: OwnerHome, two_campaigns: OwnerHome, base: Weights, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    strange = {"a.weight": rng.standard_normal((7, 11), dtype=np.float32)}
    path = write(tmp_path / "s.safetensors", strange)
    with pytest.raises(
        NotComparableError, match=r"features\.0\.weight \[24, 1, 3, 3\] \(found none\)"
    ):
        verify(issued_home, path)
    with pytest.raises(NotComparableError) as refusal:
        verify(two_campaigns, path)
    assert str(refusal.value).count("features.0.weight") == 2
    assert refusal.value.exit_code == 11


def test_a_copy_with_another_last_layer_is_aligned_and_traced(
    issued_home: OwnerHome, copy_paths: dict[str, Path], tmp_path: Path
) -> None:
    copy = weights.read(copy_paths["clinic-a"]).weights
    narrow = {**copy, "head.weight": copy["head.weight"][:7], "head.bias": copy["head.bias"][:7]}
    verdict = verify(issued_home, write(tmp_path / "s.safetensors", narrow))
    assert [accusation.customer for accusation in verdict.accused] == ["clinic-a"]
    assert verdict.alignment != "none"


def test_a_permuted_and_rescaled_copy_is_traced_and_the_verdict_says_how(
    issued_home: OwnerHome, copy_paths: dict[str, Path], tmp_path: Path
) -> None:
    copy = weights.read(copy_paths["clinic-a"]).weights
    (model,) = issued_home.base_models()
    stolen = catalogue.run("permute-rescale", [copy], model.spec, {})
    copy = stolen.weights
    verdict = verify(issued_home, write(tmp_path / "s.safetensors", copy))
    assert [accusation.customer for accusation in verdict.accused] == ["clinic-a"]
    assert "permutation" in verdict.alignment
    assert verdict.payload.matching_bits == 304


def test_a_suspect_of_which_nothing_is_left_is_inconclusive(
    issued_home: OwnerHome, base: Weights, tmp_path: Path
) -> None:
    empty = {name: np.zeros_like(array) for name, array in base.items()}
    with pytest.raises(NotComparableError, match=r"100\.0% of the weights are zero"):
        verify(issued_home, write(tmp_path / "s.safetensors", empty))


# --------------------------------------------------------------------------------------- the report


def test_the_json_has_the_specified_keys_and_no_secret(
    issued_home: OwnerHome, copy_paths: dict[str, Path], campaign: Campaign
) -> None:
    document = verify(issued_home, copy_paths["clinic-e"]).to_json()
    assert set(document) == {
        *("format", "suspect", "model_id", "max_false_accusation", "customers", "hypotheses"),
        *("accused", "payload", "alignment", "not_shown", "versions"),
        *("highest_unnamed_score", "decoys", "custody", "remarks", "broadcasts", "participants"),
    }
    assert set(document["suspect"]) == {"path", "sha256", "kind"}
    assert set(document["accused"][0]) == {
        *("customer", "evidence", "score", "log10_p", "threshold"),
        *("model_id", "test", "stage", "other_witnesses"),
    }
    assert set(document["payload"]) == {"bits", "best_match", "matching_bits", "bit_error_rate"}
    assert document["format"] == "smdl-verdict/1"
    assert document["not_shown"] == list(NOT_SHOWN)
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text) == document
    key = campaign.model.key(issued_home.key)
    for secret in (issued_home.key.secret, key.secret, key.customer("clinic-e").secret):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
    # Nobody is mentioned but the accused.
    assert [
        name for name in copy_paths if name in text.replace(str(copy_paths["clinic-e"]), "")
    ] == ["clinic-e"]


def test_a_verdict_against_nobody_mentions_nobody(
    issued_home: OwnerHome, base: Weights, tmp_path: Path
) -> None:
    verdict = verify(issued_home, write(tmp_path / "s.safetensors", base))
    text = json.dumps(verdict.to_json(), allow_nan=False) + verdict.summary()
    assert not any(name in text for name in issued_home.registry.customers())
    assert verdict.to_json()["accused"] == []


def test_the_same_file_gives_the_same_document(
    issued_home: OwnerHome, copy_paths: dict[str, Path]
) -> None:
    first, again = (verify(issued_home, copy_paths["clinic-f"]).to_json() for _ in range(2))
    assert first == again


def test_a_copy_whose_check_failed_still_counts_in_the_bound(
    home_copy: OwnerHome, tmp_path: Path
) -> None:
    (model,) = home_copy.base_models()
    copy = home_copy.registry.copies(model.model_id)[0]
    file = write(tmp_path / "copy.safetensors", model.weights)
    before = verify(home_copy, file).customers
    home_copy.registry.record_refusal(model.model_id, "somebody", "accuracy too low")
    home_copy.registry.record_refusal(model.model_id, "somebody", "accuracy too low")
    home_copy.registry.record_refusal(model.model_id, copy.customer, "first try")
    assert verify(home_copy, file).customers == before + 1
