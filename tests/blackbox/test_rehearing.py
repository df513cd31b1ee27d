"""Accusations from answers alone, judged: recorded or asked anew; nothing is opened beyond need."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smdl_flower import commitments, evidence_package, files, judging, merkle
from smdl_flower.blackbox import recorded
from smdl_flower.config import FingerprintConfig
from smdl_flower.errors import ConfigError, IntegrityError, SuspectAnswersError
from smdl_flower.evidence import Verdict
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate, issue, open_campaign
from smdl_flower.judging import Trust
from smdl_flower.questioning import Question, question
from smdl_flower.rehearing import Asking
from smdl_flower.weights import Weights
from tests.blackbox.conftest import SPEC, Digits, new_home
from tests.blackbox.test_questioning import served


def evidence_of(home: OwnerHome, verdict: Verdict, folder: Path) -> Path:
    """What ``smdl verify --predictor ... --report FOLDER --disclose`` leaves, without the page."""
    evidence_package.require_disclosable(home, verdict)
    files.write_json(folder / "verdict.json", verdict.to_json())
    evidence_package.write(home, verdict, folder)
    return folder


@pytest.fixture(scope="module")
def verdict(asked_home: OwnerHome, asked_copies: dict[str, Weights]) -> Verdict:
    return question(asked_home, served(asked_copies["bank-b"]), "https://thief", Question(pool=1))


@pytest.fixture
def package(asked_home: OwnerHome, verdict: Verdict, tmp_path: Path) -> Path:
    return evidence_of(asked_home, verdict, tmp_path / "evidence")


@pytest.mark.parametrize("labels_only", [True, False])
@pytest.mark.parametrize("anew", [False, True])
def test_the_judge_finds_what_the_verifier_found(
    asked_home: OwnerHome,
    asked_copies: dict[str, Weights],
    tmp_path: Path,
    labels_only: bool,
    anew: bool,
) -> None:
    predictor = served(asked_copies["bank-a"], labels_only=labels_only)
    verdict = question(asked_home, predictor, "s", Question())
    folder = evidence_of(asked_home, verdict, tmp_path / "evidence")
    trust = Trust(asked_home.key.signing_key().public)
    judgement = judging.judge(folder, Asking(predictor) if anew else None, trust=trust)
    assert judgement.valid
    (found,) = judgement.confirmations
    strongest = verdict.accused[0].witnesses[0]
    assert (found.customer, found.strongest.evidence, found.strongest.test) == (
        "bank-a",
        "queries",
        strongest.test,
    )
    assert found.strongest.score == strongest.score
    assert found.strongest.log10_p == pytest.approx(strongest.log10_p, rel=1e-9)
    assert found.strongest.threshold == pytest.approx(strongest.threshold, rel=1e-9)
    assert judgement.rests_on == (judging.ASKED if anew else judging.RECORDED)
    assert judgement.agreeing == (64 if anew else None)
    assert judgement.decoys.count == 1000


def test_a_suspect_that_is_another_today_is_not_confirmed(
    package: Path, asked_copies: dict[str, Weights]
) -> None:
    judgement = judging.judge(package, Asking(served(asked_copies["bank-c"])))
    assert not judgement.valid
    assert judgement.agreeing is not None
    assert judgement.agreeing < 64


def test_of_a_model_that_is_nobodys_nothing_is_confirmed(
    package: Path, asked_home: OwnerHome
) -> None:
    """The control that a judge is told to make; it would tell a pool that was made to fit."""
    (base,) = asked_home.base_models()
    judgement = judging.judge(package, Asking(served(base.weights)))
    assert [c.confirmed for c in judgement.confirmations] == [False]


@pytest.mark.parametrize(
    "answer", [lambda x: "cat", lambda x: np.full(len(x), 99), lambda x: 1 / 0]
)
def test_a_suspect_that_answers_nonsense_is_none(
    package: Path, answer: Callable[[Any], Any]
) -> None:
    with pytest.raises(SuspectAnswersError):
        judging.judge(package, Asking(answer))


def test_evidence_about_answers_takes_no_file(package: Path) -> None:
    with pytest.raises(ConfigError, match="--predictor"):
        judging.judge(package, package / "verdict.json")


def test_nothing_is_opened_but_the_pool_and_one_word_of_the_accused(
    asked_home: OwnerHome, package: Path
) -> None:
    (model,) = asked_home.base_models()
    campaign = model.key(asked_home.key)
    content = b"\n".join(p.read_bytes() for p in package.rglob("*") if p.is_file())
    assert campaign.customer("bank-b").open("queries/1/codeword").hex().encode() in content
    closed = [asked_home.key.secret, campaign.secret]
    closed += [campaign.customer(name).secret for name in asked_home.registry.customers()]
    closed += [campaign.customer("bank-b").open("queries/2/codeword")]
    closed += [campaign.customer("bank-a").open("queries/1/codeword")]
    closed += campaign.open(["payload", "chips", "queries/1/biases", "biases"]).secrets.values()
    for secret in closed:
        assert secret not in content
        assert secret.hex().encode() not in content
    assert not list(package.rglob("*.safetensors"))
    assert model.queries is not None
    assert model.queries.pools[1].images.tobytes() not in content


# ------------------------------------------------------------------ changed, and signed once more


def signed_again(home: OwnerHome, folder: Path) -> None:
    heard = recorded.parse(json.loads((folder / "answers.json").read_bytes()))
    said = recorded.digest(heard)
    verdict = json.loads((folder / "verdict.json").read_bytes())
    verdict["suspect"]["sha256"] = said
    (folder / "verdict.json").write_text(json.dumps(verdict))
    subjects = {"suspect": said, **dict(evidence_package.digests(folder))}
    envelope = home.key.signing_key().sign(subjects, evidence_package.KIND, {"time": "now"})
    (folder / "statement.json").write_bytes(envelope)


def change(path: Path, how: Callable[[Any], None]) -> None:
    document = json.loads(path.read_bytes())
    how(document)
    path.write_text(json.dumps(document))


def words_in(folder: Path) -> Path:
    return next(folder.rglob("words.json"))


def test_the_control_what_is_signed_again_unchanged_is_valid(
    asked_home: OwnerHome, package: Path
) -> None:
    signed_again(asked_home, package)
    assert judging.judge(package).valid


@pytest.mark.parametrize("name", ["answers.json", "words.json", "queries.bin", "verdict.json"])
@pytest.mark.parametrize("how", ["a byte", "cut off", "gone"])
def test_no_file_can_be_changed(package: Path, name: str, how: str) -> None:
    path = next(package.rglob(name))
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(content[:-1])
    else:
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(IntegrityError):
        judging.judge(package)


def test_an_innocents_true_word_is_not_confirmed(asked_home: OwnerHome, package: Path) -> None:
    """The owner frames bank-c in a verdict of its own; all else is as was committed to."""
    (model,) = asked_home.base_models()
    assert model.queries is not None
    campaign, names = model.key(asked_home.key), asked_home.registry.customers()
    pool = model.queries.pools[0]
    leaves, index = commitments.word_leaves(campaign, pool, names), names.index("bank-c")
    entry = {
        "customer": "bank-c",
        "secret": campaign.customer("bank-c").open(pool.word_label).hex(),
        "index": index,
        "proof": [step.hex() for step in merkle.proof(leaves, index)],
    }
    change(words_in(package), lambda d: d.update(customers=[entry]))
    change(package / "verdict.json", lambda d: d["accused"][0].update(customer="bank-c"))
    change(package / "verdict.json", lambda d: d["payload"].update(best_match=None))
    signed_again(asked_home, package)
    assert not judging.judge(package).valid


@pytest.mark.parametrize(
    ("how", "match"),
    [
        (lambda d: d["customers"][0].update(secret="6b" * 32), "another key was committed to"),
        (lambda d: d["customers"][0].update(index=0), "another key was committed to"),
        (lambda d: d["customers"][0].update(proof=[]), "another key was committed to"),
        (lambda d: d["customers"].clear(), "other words are opened"),
        (lambda d: d["answers"][0].reverse(), "another pool"),
        (lambda d: d.update(pool=2), "another pool"),
        (lambda d: d.update(pool=0), "damaged"),
        (lambda d: d.update(pool=3), "damaged"),
        (lambda d: d.update(pool="x"), "damaged"),
        (lambda d: d.update(answers=[]), "damaged"),
        (lambda d: d.update(answers=[[10**30, 1]] * 64), "damaged"),
        (lambda d: d.update(commitment_sha256="00" * 32), "another commitment"),
    ],
)
def test_what_was_not_committed_to_is_refused(
    asked_home: OwnerHome, package: Path, how: Callable[[Any], None], match: str
) -> None:
    change(words_in(package), how)
    signed_again(asked_home, package)
    with pytest.raises(IntegrityError, match=match):
        judging.judge(package)


def test_answers_invented_to_fit_are_the_owners_word_and_asking_anew_shows_it(
    asked_home: OwnerHome, asked_copies: dict[str, Weights], tmp_path: Path
) -> None:
    """What a record cannot show: the owner made bank-c's answers up."""
    made_up = served(asked_copies["bank-c"])
    verdict = question(asked_home, made_up, "https://innocent", Question(pool=1))
    folder = evidence_of(asked_home, verdict, tmp_path / "evidence")
    recorded_only = judging.judge(folder)
    assert recorded_only.valid
    assert "owner's word" in recorded_only.rests_on
    innocent = Asking(lambda images: np.zeros(len(images), np.int64))
    assert not judging.judge(folder, innocent).valid


def test_words_of_a_tardos_code_are_not_disclosed(
    digits: Digits, taught_base: Weights, asked_config: FingerprintConfig, tmp_path: Path
) -> None:
    home = new_home(tmp_path / "home", b"tardos")
    config = asked_config.model_copy(
        update={"code": "nuida", "queries": 256, "query_pools": 1, "max_accuracy_drop": 1.0}
    )
    campaign = open_campaign(home, SPEC, taught_base, config, FidelityGate(digits.test, 1.0))
    (result,) = issue(home, campaign, ["bank-a"], tmp_path / "copies")
    assert result.path is not None
    from smdl_flower.weights import read  # noqa: PLC0415

    verdict = question(home, served(read(result.path).weights), "s", Question())
    assert [a.customer for a in verdict.accused] == ["bank-a"]
    with pytest.raises(ConfigError, match="secret biases"):
        evidence_package.require_disclosable(home, verdict)


# ----------------------------------------------------------------------------- hostile documents


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"format": "smdl-answers/1"},
        {"format": "smdl-answers/1", "heard": [{}]},
        {"format": "smdl-answers/1", "heard": 3},
        *(
            {"format": "smdl-answers/1", "heard": [{"model_id": "m", "pool": 1, **entry}]}
            for entry in (
                {"labels": [-1], "probabilities": None},
                {"labels": [True], "probabilities": None},
                {"labels": [10**40], "probabilities": None},
                {"labels": [0], "probabilities": [[float("nan"), 1.0]]},
                {"labels": [0], "probabilities": [[0.1, 0.9]]},
                {"labels": [7], "probabilities": [[0.1, 0.9]]},
                {"labels": [0], "probabilities": [0.1]},
                {"labels": [0], "probabilities": [["x", "y"]]},
                {"labels": [0, 1], "probabilities": [[0.9, 0.1]]},
            )
        ),
    ],
)
def test_recorded_answers_that_are_none_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        recorded.parse(document)


def test_what_was_said_reads_back_to_the_same_digest(
    asked_home: OwnerHome, asked_copies: dict[str, Weights]
) -> None:
    copy = served(asked_copies["bank-a"], labels_only=False)
    heard = question(asked_home, copy, "s", Question()).heard
    written = json.loads(json.dumps(recorded.document(heard)))
    assert recorded.digest(recorded.parse(written)) == recorded.digest(heard)


def test_a_folder_of_white_box_evidence_is_not_judged_by_answers(
    package: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(package, tmp_path / "other")
    (other / "answers.json").unlink()
    with pytest.raises(IntegrityError):
        judging.judge(other)
