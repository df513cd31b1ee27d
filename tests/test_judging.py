"""A judge comes to the same result, from the package alone; whoever changes it is found out."""

import dataclasses
import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from smdl_flower import (
    commitments,
    evidence_package,
    files,
    issuing,
    judging,
    merkle,
    verifying,
    weights,
)
from smdl_flower.config import FingerprintConfig
from smdl_flower.data import Images
from smdl_flower.errors import ConfigError, IntegrityError, NotComparableError
from smdl_flower.evidence import TracedBroadcast
from smdl_flower.fingerprint import carriers, embedding
from smdl_flower.fingerprint.keys import CustomerKey, KeyStream, OwnerKey
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.judging import Trust
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


def evidence_of(home: OwnerHome, suspect: Path, folder: Path) -> Path:
    """What ``smdl verify SUSPECT --report FOLDER --disclose`` leaves, without the page."""
    verdict = verifying.verify(home, suspect)
    evidence_package.require_disclosable(home, verdict)
    files.write_json(folder / "verdict.json", verdict.to_json())
    evidence_package.write(home, verdict, folder)
    return folder


@pytest.fixture(scope="module")
def leaked(
    issued_home: OwnerHome, copy_paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A leaked copy and the evidence about it."""
    suspect = copy_paths["clinic-a"]
    return evidence_of(issued_home, suspect, tmp_path_factory.mktemp("leak") / "evidence"), suspect


@pytest.fixture
def package(leaked: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of it that a test may spoil."""
    folder, suspect = leaked
    return Path(shutil.copytree(folder, tmp_path / "evidence")), suspect


def test_the_judge_finds_what_the_verifier_found(
    issued_home: OwnerHome, leaked: tuple[Path, Path]
) -> None:
    folder, suspect = leaked
    verdict = verifying.verify(issued_home, suspect)
    judgement = judging.judge(folder, suspect, trust=Trust(issued_home.key.signing_key().public))
    assert judgement.valid
    (confirmed,) = judgement.confirmations
    assert confirmed.customer == "clinic-a"
    carrier = next(w for w in verdict.accused[0].witnesses if w.evidence == "carrier")
    assert confirmed.strongest.score == pytest.approx(carrier.score, rel=1e-6)
    assert confirmed.strongest.log10_p == pytest.approx(carrier.log10_p, rel=1e-6)
    assert judgement.decoys.count == 1000
    assert abs(judgement.decoys.mean) < 0.16
    assert judgement.decoys.deviation == pytest.approx(1.0, abs=0.12)


def average(copies: dict[str, Weights], names: list[str]) -> Weights:
    return {
        name: np.mean([copies[c][name] for c in names], axis=0, dtype=np.float32)
        for name in copies[names[0]]
    }


def test_all_of_a_coalition_are_confirmed(
    issued_home: OwnerHome, copies: dict[str, Weights], tmp_path: Path
) -> None:
    names = sorted(copies)[:4]
    suspect = tmp_path / "mean.safetensors"
    weights.write(suspect, average(copies, names))
    judgement = judging.judge(evidence_of(issued_home, suspect, tmp_path / "evidence"), suspect)
    assert judgement.valid
    assert sorted(c.customer for c in judgement.confirmations) == names


@pytest.mark.parametrize("seed", range(5))
def test_altered_copies_are_judged_as_they_are_verified(
    issued_home: OwnerHome, copies: dict[str, Weights], tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    name = sorted(copies)[seed]
    noisy = {
        key: array + (0.3 * array.std() * rng.standard_normal(array.shape)).astype(np.float32)
        for key, array in copies[name].items()
    }
    suspect = tmp_path / "noisy.safetensors"
    weights.write(suspect, noisy)
    judgement = judging.judge(evidence_of(issued_home, suspect, tmp_path / "evidence"), suspect)
    assert judgement.valid
    assert [c.customer for c in judgement.confirmations] == [name]


# ------------------------------------------------------------------------------ changed by others

FILES = (
    *("verdict.json", "statement.json", "commitments/000001.json", "commitments/000002.json"),
    *("terms.json", "base.safetensors", "profile.safetensors"),
)


def file_in(folder: Path, name: str) -> Path:
    found = folder / name
    return found if found.exists() else next((folder / "disclosure").rglob(name))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["a byte", "cut off", "gone", "a link"])
def test_no_file_can_be_changed(package: tuple[Path, Path], name: str, how: str) -> None:
    folder, suspect = package
    path = file_in(folder, name)
    content = path.read_bytes()
    path.unlink()
    if how == "a byte":
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif how == "cut off":
        path.write_bytes(content[:-1])
    elif how == "a link":
        path.symlink_to(suspect)
    with pytest.raises(IntegrityError):
        judging.judge(folder, suspect)


def test_no_file_can_be_added(package: tuple[Path, Path]) -> None:
    folder, suspect = package
    (folder / "more.txt").write_text("he confessed")
    with pytest.raises(IntegrityError, match="not those that were signed"):
        judging.judge(folder, suspect)


def test_another_suspect_or_key_is_refused(
    package: tuple[Path, Path], copy_paths: dict[str, Path]
) -> None:
    folder, suspect = package
    with pytest.raises(IntegrityError, match="not the file"):
        judging.judge(folder, copy_paths["clinic-b"])
    with pytest.raises(IntegrityError, match="not signed by key"):
        judging.judge(folder, suspect, trust=Trust(OwnerKey(bytes(32)).signing_key().public))


# ------------------------------------------------------- changed by the owner, who signs it again


def signed_again(home: OwnerHome, folder: Path, suspect: Path) -> None:
    (folder / "statement.json").unlink()
    subjects = {
        "suspect": weights.read(suspect).sha256,
        **dict(evidence_package.digests(folder)),
    }
    envelope = home.key.signing_key().sign(subjects, evidence_package.KIND, {"time": "now"})
    files.write(folder / "statement.json", envelope)


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def test_the_control_what_is_signed_again_unchanged_is_valid(
    issued_home: OwnerHome, package: tuple[Path, Path]
) -> None:
    folder, suspect = package
    signed_again(issued_home, folder, suspect)
    assert judging.judge(folder, suspect).valid


def test_another_customers_name_cannot_be_put_to_the_key(
    issued_home: OwnerHome, package: tuple[Path, Path]
) -> None:
    folder, suspect = package
    rename = {"customer": "clinic-b"}
    change_json(folder / "verdict.json", lambda d: d["accused"][0].update(rename))
    change_json(file_in(folder, "terms.json"), lambda d: d["customers"][0].update(rename))
    signed_again(issued_home, folder, suspect)
    with pytest.raises(IntegrityError, match="another key was committed to"):
        judging.judge(folder, suspect)


def test_an_innocent_whose_true_key_is_opened_is_not_confirmed(
    issued_home: OwnerHome, package: tuple[Path, Path]
) -> None:
    """The owner writes a verdict of its own; everything else is as was committed to."""
    folder, suspect = package
    (model,) = issued_home.base_models()
    campaign, names = model.key(issued_home.key), issued_home.registry.customers()
    leaves = [commitments.leaf(campaign.customer(name)) for name in names]
    index = names.index("clinic-b")
    entry = {
        "customer": "clinic-b",
        "key": campaign.customer("clinic-b").secret.hex(),
        "index": index,
        "proof": [step.hex() for step in merkle.proof(leaves, index)],
    }
    change_json(folder / "verdict.json", lambda d: d["accused"][0].update(customer="clinic-b"))
    change_json(folder / "verdict.json", lambda d: d["payload"].update(best_match=None))
    change_json(file_in(folder, "terms.json"), lambda d: d.update(customers=[entry]))
    signed_again(issued_home, folder, suspect)
    judgement = judging.judge(folder, suspect)
    assert not judgement.valid
    (found,) = judgement.confirmations
    assert found.strongest.log10_p > -6  # in four tests: exceeded with a chance of 4e-6


def test_a_key_invented_after_the_leak_was_not_committed_to(
    issued_home: OwnerHome, package: tuple[Path, Path]
) -> None:
    folder, suspect = package
    invented = (b"k" * 32).hex()
    change_json(file_in(folder, "terms.json"), lambda d: d["customers"][0].update(key=invented))
    signed_again(issued_home, folder, suspect)
    with pytest.raises(IntegrityError, match="another key was committed to"):
        judging.judge(folder, suspect)


@pytest.mark.parametrize(
    ("name", "match"),
    [("base.safetensors", "never committed to"), ("profile.safetensors", "another profile")],
)
def test_another_base_model_or_profile_was_not_committed_to(
    issued_home: OwnerHome, package: tuple[Path, Path], name: str, match: str
) -> None:
    folder, suspect = package
    path = file_in(folder, name)
    arrays = weights.read(path).weights
    weights.write(path, {k: v * np.float32(1.001) for k, v in arrays.items()}, replace=True)
    signed_again(issued_home, folder, suspect)
    with pytest.raises(IntegrityError, match=match):
        judging.judge(folder, suspect)


def test_another_way_of_reading_was_not_committed_to(
    issued_home: OwnerHome, package: tuple[Path, Path]
) -> None:
    folder, suspect = package
    change_json(file_in(folder, "terms.json"), lambda d: d["streams"].update(payload="00" * 32))
    signed_again(issued_home, folder, suspect)
    with pytest.raises(IntegrityError, match="another way of reading"):
        judging.judge(folder, suspect)


@pytest.mark.parametrize(
    "change",
    [
        {"max_false_accusation": 0.5},
        {"max_false_accusation": "1"},
        {"customers": None},
        {"customers": -1},
        {"accused": []},
        {"accused": 3},
    ],
)
def test_a_verdict_that_is_none_is_refused(
    issued_home: OwnerHome, package: tuple[Path, Path], change: dict[str, object]
) -> None:
    folder, suspect = package
    change_json(folder / "verdict.json", lambda d: d.update(change))
    signed_again(issued_home, folder, suspect)
    with pytest.raises(IntegrityError):
        judging.judge(folder, suspect)


def test_fewer_customers_than_committed_to_do_not_loosen_the_bound(
    issued_home: OwnerHome, package: tuple[Path, Path]
) -> None:
    folder, suspect = package
    before = judging.judge(folder, suspect)
    change_json(folder / "verdict.json", lambda d: d.update(customers=1))
    signed_again(issued_home, folder, suspect)
    with pytest.raises(IntegrityError, match="threshold is not that of its level"):
        judging.judge(folder, suspect)

    def loosen(document: Any) -> None:
        first = document["accused"][0]
        for witness in (first, *first["other_witnesses"]):
            witness["threshold"] += math.log10(before.words)

    change_json(folder / "verdict.json", loosen)
    signed_again(issued_home, folder, suspect)
    after = judging.judge(folder, suspect)
    assert after.words == before.words == len(issued_home.registry.customers()) > 1
    assert after.confirmations[0].strongest.threshold == before.confirmations[0].strongest.threshold


@pytest.mark.parametrize("name", ["score", "log10_p", "threshold", "stage", "test", "evidence"])
def test_a_verdict_that_says_other_than_is_found_is_refused(
    issued_home: OwnerHome, package: tuple[Path, Path], name: str
) -> None:
    folder, suspect = package

    def change(document: Any) -> None:
        said = document["accused"][0][name]
        document["accused"][0][name] = said * 2 if not isinstance(said, str) else "payload"

    change_json(folder / "verdict.json", change)
    signed_again(issued_home, folder, suspect)
    with pytest.raises(IntegrityError):
        judging.judge(folder, suspect)


def test_what_a_verdict_does_not_show_cannot_be_left_out(
    issued_home: OwnerHome, package: tuple[Path, Path]
) -> None:
    folder, suspect = package
    change_json(folder / "verdict.json", lambda d: d["not_shown"].pop(0))
    signed_again(issued_home, folder, suspect)
    with pytest.raises(IntegrityError, match="leaves out"):
        judging.judge(folder, suspect)


def test_a_looser_bound_than_committed_to_is_not_used(
    issued_home: OwnerHome, copy_paths: dict[str, Path], tmp_path: Path
) -> None:
    suspect, folder = copy_paths["clinic-a"], tmp_path / "evidence"
    verdict = verifying.verify(issued_home, suspect, max_false_accusation=0.01)
    files.write_json(folder / "verdict.json", verdict.to_json())
    evidence_package.write(issued_home, verdict, folder)
    judgement = judging.judge(folder, suspect)
    assert judgement.max_false_accusation == 1e-6
    assert judgement.valid


def test_a_statement_after_the_published_one_does_not_count(
    issued_home: OwnerHome, package: tuple[Path, Path]
) -> None:
    folder, suspect = package
    owner, campaign = commitments.of_home(issued_home)
    for statement, good in ((campaign, True), (owner, False)):
        trust = Trust(published=statement.digest)
        if good:
            assert judging.judge(folder, suspect, trust=trust).valid
        else:
            with pytest.raises(IntegrityError, match="only after"):
                judging.judge(folder, suspect, trust=trust)
    with pytest.raises(IntegrityError, match="not in the chain"):
        judging.judge(folder, suspect, trust=Trust(published="00" * 32))


class OnlyWord:
    """A customer's codeword with a carrier that is nobody's."""

    def __init__(self, key: CustomerKey) -> None:
        self.customer = key.customer
        self._key, self._other = key, CustomerKey("nobody", bytes(32))

    def stream(self, label: str) -> KeyStream:
        return (self._key if label == "codeword" else self._other).stream(label)


def only_the_word(home: OwnerHome, customer: str, path: Path) -> Path:
    """A suspect that holds a customer's codeword and not its carrier."""
    (model,) = home.base_models()
    mark = model.mark(home.key)
    key = OnlyWord(model.key(home.key).customer(customer))
    marked = embedding.embed(mark, cast(CustomerKey, key))
    weights.write(path, mark.layout.restore(model.weights, marked))
    return path


def test_a_codeword_alone_is_judged_too(issued_home: OwnerHome, tmp_path: Path) -> None:
    suspect = only_the_word(issued_home, "clinic-c", tmp_path / "word.safetensors")
    verdict = verifying.verify(issued_home, suspect)
    assert {w.evidence for w in verdict.accused[0].witnesses} == {"payload"}
    judgement = judging.judge(evidence_of(issued_home, suspect, tmp_path / "evidence"), suspect)
    assert judgement.valid
    (found,) = judgement.confirmations
    strongest = verdict.accused[0].witnesses[0]
    assert (found.customer, found.strongest.evidence) == ("clinic-c", "payload")
    assert (found.strongest.test, found.strongest.score) == (strongest.test, strongest.score)
    assert found.strongest.log10_p == pytest.approx(strongest.log10_p, rel=1e-9)


def test_codewords_with_secret_biases_are_not_opened_and_carriers_are_judged_all_the_same(
    tmp_path: Path, spec: ModelSpec, base: Weights, fingerprint_config: FingerprintConfig
) -> None:
    home = OwnerHome.create(tmp_path / "home")
    config = fingerprint_config.model_copy(update={"code": "nuida"})
    paths = issued_as(home, tmp_path / "copies", spec, base, config)
    suspect = only_the_word(home, "clinic-a", tmp_path / "word.safetensors")
    verdict = verifying.verify(home, suspect)
    assert verdict.names_somebody
    with pytest.raises(ConfigError, match="secret biases"):
        evidence_package.require_disclosable(home, verdict)
    copied = verifying.verify(home, paths["clinic-b"])
    both = dataclasses.replace(verdict, accused=(*verdict.accused, *copied.accused))
    evidence_package.require_disclosable(home, both)
    assert evidence_package.not_judged(home, both) == ["clinic-a"]
    folder = evidence_of(home, paths["clinic-a"], tmp_path / "evidence")
    judgement = judging.judge(folder, paths["clinic-a"])
    assert judgement.valid
    assert judgement.confirmations[0].strongest.evidence == "carrier"
    (model,) = home.base_models()
    opened = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert model.key(home.key).open(["biases"]).secrets["biases"].hex().encode() not in opened


def test_participants_models_of_training_cannot_be_judged_and_it_says_so(
    issued_home: OwnerHome, copy_paths: dict[str, Path], package: tuple[Path, Path]
) -> None:
    folder, suspect = package
    sent = TracedBroadcast("clinic-a", "77", 3, "run", 50.0, -540.0, -7.0)
    verdict = dataclasses.replace(
        verifying.verify(issued_home, suspect), accused=(), participants=(sent,)
    )
    with pytest.raises(ConfigError, match="models of training were sent"):
        evidence_package.require_disclosable(issued_home, verdict)
    change_json(
        folder / "verdict.json", lambda d: d.update(participants=verdict.to_json()["participants"])
    )
    signed_again(issued_home, folder, suspect)
    with pytest.raises(IntegrityError, match="participants of the training"):
        judging.judge(folder, suspect)


# ------------------------------------------------------------------------- what is not disclosed


def test_no_other_customers_key_and_no_master_key_is_in_the_package(
    issued_home: OwnerHome, leaked: tuple[Path, Path]
) -> None:
    folder, _ = leaked
    (model,) = issued_home.base_models()
    campaign = model.key(issued_home.key)
    content = b"\n".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert campaign.customer("clinic-a").secret.hex().encode() in content
    secrets = [issued_home.key.secret, campaign.secret, issued_home.key.signing_key().secret]
    secrets += [
        campaign.customer(name).secret
        for name in issued_home.registry.customers()
        if name != "clinic-a"
    ]
    for secret in secrets:
        assert secret not in content
        assert secret.hex().encode() not in content
    assert all(p.stat().st_mode & 0o077 == 0 for p in folder.rglob("*"))


def test_a_verdict_that_names_nobody_cannot_be_disclosed(
    issued_home: OwnerHome, base: Weights, tmp_path: Path
) -> None:
    suspect = tmp_path / "innocent.safetensors"
    rng = np.random.default_rng(1)
    weights.write(
        suspect, {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in base.items()}
    )
    verdict = verifying.verify(issued_home, suspect)
    with pytest.raises(ConfigError, match="names none"):
        evidence_package.require_disclosable(issued_home, verdict)


def test_copies_issued_before_there_were_commitments_cannot_be_judged(
    home_copy: OwnerHome, copy_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = verifying.verify(home_copy, copy_paths["clinic-a"])
    shutil.rmtree(commitments.directory(home_copy))
    monkeypatch.setattr(type(home_copy.registry), "commitments", lambda _: ())  # of version 0.1.0
    with pytest.raises(ConfigError, match="nothing was committed to"):
        evidence_package.require_disclosable(home_copy, verdict)


def test_decoys_that_do_not_score_as_innocents_confirm_nothing(
    leaked: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, suspect = leaked
    score = carriers.score
    monkeypatch.setattr(
        "smdl_flower.fingerprint.tracing.carriers.score",
        lambda key, direction: score(key, direction) + 1.0 * key.customer.startswith("decoy/"),
    )
    with pytest.raises(NotComparableError):
        judging.judge(folder, suspect)


def test_secrets_are_not_shown(leaked: tuple[Path, Path]) -> None:
    folder, suspect = leaked
    judgement = judging.judge(folder, suspect)
    assert "disclosure" not in repr(judgement)
    assert dataclasses.asdict(judgement)["confirmations"][0]["customer"] == "clinic-a"


# -------------------------------------------------------------------- other ways of being issued


def issued_as(
    home: OwnerHome, place: Path, spec: ModelSpec, base: Weights, config: FingerprintConfig
) -> dict[str, Path]:
    gate = FidelityGate(images_like(spec), max_accuracy_drop=1.0)
    campaign = issuing.open_campaign(home, spec, base, config, gate)
    home.registry.add_customers(["clinic-a", "clinic-b"])
    results = issuing.issue(home, campaign, ["clinic-a", "clinic-b"], place)
    return {r.customer: r.path for r in results if r.path}


def images_like(spec: ModelSpec) -> Images:
    generator = torch.Generator().manual_seed(1)
    size = (200, spec.channels, spec.image_size, spec.image_size)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    labels = torch.arange(200) % spec.classes
    return Images(pixels, labels, tuple(map(str, range(spec.classes))))


def test_a_copy_that_was_taught_answers_is_judged_by_its_weights(
    tmp_path: Path, spec: ModelSpec, base: Weights, fingerprint_config: FingerprintConfig
) -> None:
    home = OwnerHome.create(tmp_path / "home")
    config = fingerprint_config.model_copy(update={"queries": 64})
    paths = issued_as(home, tmp_path / "copies", spec, base, config)
    suspect = paths["clinic-a"]
    folder = evidence_of(home, suspect, tmp_path / "evidence")
    assert list(folder.rglob("taught.safetensors"))
    judgement = judging.judge(folder, suspect)
    verdict = verifying.verify(home, suspect)
    assert judgement.valid
    carrier = next(w for w in verdict.accused[0].witnesses if w.evidence == "carrier")
    assert judgement.confirmations[0].strongest.score == pytest.approx(carrier.score, rel=1e-6)


def test_a_model_that_changed_its_form_is_aligned_by_the_judge_too(
    issued_home: OwnerHome, copies: dict[str, Weights], spec: ModelSpec, tmp_path: Path
) -> None:
    """Channels and hidden units in another order; only the order of the classes is as it was."""
    rng, moved = np.random.default_rng(1), dict(copies["clinic-b"])
    layers = ("features.0", "features.3", "features.6", "hidden", "head")
    for layer, after in itertools.pairwise(layers):
        count = moved[f"{layer}.bias"].shape[0]
        order = rng.permutation(count)
        moved[f"{layer}.weight"] = moved[f"{layer}.weight"][order]
        moved[f"{layer}.bias"] = moved[f"{layer}.bias"][order]
        read = moved[f"{after}.weight"]
        by_input = read.reshape(len(read), count, -1)
        moved[f"{after}.weight"] = by_input[:, order].reshape(read.shape)
    suspect = tmp_path / "moved.safetensors"
    weights.write(suspect, moved)
    judgement = judging.judge(evidence_of(issued_home, suspect, tmp_path / "evidence"), suspect)
    assert judgement.valid
    (confirmed,) = judgement.confirmations
    assert confirmed.customer == "clinic-b"
    assert confirmed.alignment != "none"
