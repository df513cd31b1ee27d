"""A judge's page says what it rests on and what nobody checked; names are a stranger's text."""

import dataclasses
from pathlib import Path

import pytest

from smdl_flower import judgement_page
from smdl_flower.confirming import Confirmation
from smdl_flower.evidence import ASSUMPTIONS, Witness
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.judging import ASKED, FILE, RECORDED, Judgement
from tests.test_verdict_page import HISTOGRAM, HOSTILE, text_of

CARRIER = Witness("carrier", 120.0, -3126.0, -7.2, "carrier", 1)
JUDGEMENT = Judgement(
    key_id="0123456789abcdef",
    suspect_sha256="ab" * 32,
    rests_on=FILE,
    max_false_accusation=1e-6,
    words=8,
    commitment_sha256="cd" * 32,
    committed_at="2026-01-02T03:04:05+00:00",
    confirmations=(Confirmation("clinic-a", "m1", (CARRIER,), "none", confirmed=True),),
    decoys=DecoySummary(1000, 0.01, 0.99, 3.2, HISTOGRAM),
)


def page_of(judgement: Judgement, place: Path, *, checked: bool = True) -> str:
    path = place / "report.html"
    judgement_page.write(judgement, path, key_checked=checked, published_checked=checked)
    return path.read_text()


def test_it_says_who_how_sure_and_on_what_it_rests(tmp_path: Path) -> None:
    text = text_of(page_of(JUDGEMENT, tmp_path))
    for words in (
        *("Valid: computed anew, the accusation of clinic-a is confirmed", "suspect's file"),
        *("10\N{MINUS SIGN}3126", "1 in 1,000,000", "among 8 fingerprints", "the published one"),
        *("published in time", "None that was checked", *ASSUMPTIONS, *judgement_page.NOT_SHOWN),
    ):
        assert words in text, words


def test_what_nobody_checked_is_said(tmp_path: Path) -> None:
    text = text_of(page_of(JUDGEMENT, tmp_path, checked=False))
    assert "nobody compared with a published one" in text
    assert "nobody said whether it was published in time" in text


def test_recorded_answers_are_the_owners_word_and_those_asked_anew_are_not(tmp_path: Path) -> None:
    recorded = text_of(page_of(dataclasses.replace(JUDGEMENT, rests_on=RECORDED), tmp_path))
    assert "the owner's word" in recorded
    assert "Ask the suspect anew" in recorded
    assert "Valid, if the owner's record of the answers is believed" in recorded
    anew = dataclasses.replace(JUDGEMENT, rests_on=ASKED, agreeing=300, images=304)
    (tmp_path / "report.html").unlink()
    text = text_of(page_of(anew, tmp_path))
    assert "300 of 304 answers are those that the owner recorded" in text
    assert "owner's word" not in text


def test_what_is_not_confirmed_is_not_valid(tmp_path: Path) -> None:
    weak = dataclasses.replace(CARRIER, score=1.0, log10_p=-0.2)
    none = Confirmation("clinic-b", "m1", (weak,), "none", confirmed=False)
    mixed = dataclasses.replace(JUDGEMENT, confirmations=(*JUDGEMENT.confirmations, none))
    text = text_of(page_of(mixed, tmp_path))
    assert "Not valid" in text
    assert "clinic-b: NOT confirmed" in text
    only = dataclasses.replace(JUDGEMENT, confirmations=(none,))
    (tmp_path / "report.html").unlink()
    assert "would score as much" not in text_of(page_of(only, tmp_path))


@pytest.mark.parametrize("confirmed", [True, False])
def test_text_chosen_by_others_is_escaped(tmp_path: Path, confirmed: bool) -> None:
    witness = dataclasses.replace(CARRIER, test=HOSTILE)
    hostile = dataclasses.replace(
        JUDGEMENT,
        confirmations=(Confirmation(HOSTILE, HOSTILE, (witness,), HOSTILE, confirmed),),
        committed_at=HOSTILE,
        stamped_at=HOSTILE,
        key_id=HOSTILE,
    )
    page = page_of(hostile, tmp_path)
    assert "<script" not in page
    assert "{{ 7*7 }}" in page
