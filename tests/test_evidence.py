"""Verdicts as data: exit codes, the document of smdl-verdict/1, and one honest sentence."""

import json
from importlib import metadata

import pytest

from smdl_flower.evidence import (
    NOT_SHOWN,
    Accusation,
    PayloadReading,
    Suspect,
    Verdict,
    Witness,
    versions,
)
from smdl_flower.fingerprint.decoys import DecoySummary

CARRIER = Witness("carrier", 41.5, -373.9, -7.2, "carrier", 1)
PAYLOAD = Witness("payload", 9051, -40.25, -7.2, "symmetric", 1)


def verdict(*accused: Accusation) -> Verdict:
    return Verdict(
        suspect=Suspect("leaked.safetensors", "ab" * 32, "safetensors"),
        model_id="0123456789abcdef",
        max_false_accusation=1e-6,
        customers=8,
        hypotheses=2,
        accused=accused,
        payload=PayloadReading("0101", accused[0].customer if accused else None, 3, 0.25),
        alignment="none",
        highest_unnamed_score=1.5,
        remarks=("a remark",),
        decoys=DecoySummary(1000, 0.01, 0.99, 3.2),
        carrier_scores=(0.5, 1.5, 41.5),
    )


def accusation(customer: str, *witnesses: Witness) -> Accusation:
    return Accusation(customer, "0123456789abcdef", witnesses or (CARRIER, PAYLOAD))


def test_naming_somebody_and_naming_nobody_have_different_exit_codes() -> None:
    assert verdict(accusation("clinic-a")).exit_code == 0
    assert verdict().exit_code == 10


def test_the_document_is_the_one_that_was_released() -> None:
    document = verdict(accusation("clinic-a")).to_json()
    assert document.pop("versions") == versions()
    assert document == {
        "format": "smdl-verdict/1",
        "suspect": {"path": "leaked.safetensors", "sha256": "ab" * 32, "kind": "safetensors"},
        "model_id": "0123456789abcdef",
        "max_false_accusation": 1e-6,
        "customers": 8,
        "broadcasts": 0,
        "hypotheses": 2,
        "accused": [
            {
                "customer": "clinic-a",
                "model_id": "0123456789abcdef",
                "evidence": "carrier",
                "score": 41.5,
                "log10_p": -373.9,
                "threshold": -7.2,
                "test": "carrier",
                "stage": 1,
                "other_witnesses": [
                    {
                        "evidence": "payload",
                        "score": 9051,
                        "log10_p": -40.25,
                        "threshold": -7.2,
                        "test": "symmetric",
                        "stage": 1,
                    }
                ],
            }
        ],
        "participants": [],
        "payload": {
            "bits": "0101",
            "best_match": "clinic-a",
            "matching_bits": 3,
            "bit_error_rate": 0.25,
        },
        "alignment": "none",
        "highest_unnamed_score": 1.5,
        "decoys": {
            "count": 1000,
            "mean": 0.01,
            "deviation": 0.99,
            "highest": 3.2,
            "histogram": [],
        },
        "custody": [],
        "remarks": ["a remark"],
        "not_shown": list(NOT_SHOWN),
    }


@pytest.mark.parametrize("accused", [(), (accusation("a", CARRIER),), (accusation("a"),) * 3])
def test_every_document_is_plain_json(accused: tuple[Accusation, ...]) -> None:
    document = verdict(*accused).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert len(document["accused"]) == len(accused)


def test_scores_of_customers_who_are_not_named_stay_out_of_the_document() -> None:
    assert "carrier_scores" not in verdict().to_json()


def test_the_sentence_says_took_part_and_states_the_bound_and_never_leaked() -> None:
    one = verdict(accusation("clinic-a")).summary()
    assert one == (
        "The copy issued to clinic-a took part in making this file (chance of naming any "
        "innocent: at most 1e-06)."
    )
    two = verdict(accusation("clinic-a"), accusation("bank-b")).summary()
    assert two.startswith("Copies issued to clinic-a, bank-b took part")
    nobody = verdict().summary()
    assert nobody.startswith("Nobody is named")
    assert "1e-06" in nobody
    for sentence in (one, two, nobody):
        assert "leaked" not in sentence.replace("leaked.safetensors", "")
        assert "guilty" not in sentence
        assert "\n" not in sentence


def test_what_is_not_shown_is_said_with_every_verdict() -> None:
    said = " ".join(verdict().to_json()["not_shown"])
    for limit in ("who leaked", "stolen", "each suspect", "key"):
        assert limit in said


def test_versions_name_everything_a_figure_may_depend_on() -> None:
    found = versions()
    assert set(found) == {
        *("python", "smdl-flower", "numpy", "scipy", "torch", "safetensors", "cryptography")
    }
    assert found["numpy"] == metadata.version("numpy")
