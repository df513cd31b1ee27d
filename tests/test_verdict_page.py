"""A stranger finds who, how sure, why and what is assumed; and nothing on the page is a thief's."""

import dataclasses
import html
import re
from pathlib import Path

import pytest

from smdl_flower import custody, verdict_page, verifying
from smdl_flower.evidence import (
    ASSUMPTIONS,
    Accusation,
    AskedQueries,
    Event,
    PayloadReading,
    Suspect,
    TracedBroadcast,
    Verdict,
    Witness,
    WordScores,
)
from smdl_flower.fingerprint.decoys import EDGES, DecoySummary
from smdl_flower.home import OwnerHome

HISTOGRAM = (0, 1, *[62] * 16)
ACCUSED = Accusation(
    "clinic-a",
    "m1",
    (
        Witness("carrier", 120.0, -3126.0, -7.2, "carrier", 1),
        Witness("payload", 9051.0, -40.2, -7.2, "symmetric", 1),
    ),
)
FILE = Verdict(
    suspect=Suspect("leaked.safetensors", "ab" * 32, "safetensors"),
    model_id="m1",
    max_false_accusation=1e-6,
    customers=3,
    hypotheses=2,
    accused=(ACCUSED,),
    payload=PayloadReading("01" * 16, "clinic-a", 32, 0.0),
    alignment="permutation + rescaling",
    highest_unnamed_score=1.2,
    remarks=("9.3% of the marked weights are zero",),
    decoys=DecoySummary(1000, 0.01, 0.99, 3.2, HISTOGRAM),
    carrier_scores=(-0.3, 1.2, 120.0),
    custody=(Event("2026-01-02T03:04:05+00:00", "Suspect examined", "ab" * 32),),
)
ANSWERS = dataclasses.replace(
    FILE,
    suspect=Suspect("https://thief.example", "ab" * 32, "predictor"),
    accused=(
        Accusation(
            "clinic-a", "m1", (Witness("queries", 8000, -19.2, -7.2, "symmetric of labels", 1),)
        ),
    ),
    payload=PayloadReading("01" * 15 + "--", "clinic-a", 30, 0.0625),
    alignment="none",
    highest_unnamed_score=None,
    carrier_scores=(),
    queries=AskedQueries(1, 32, 30, probabilities=False),
    word_scores=WordScores((-0.2, 0.7, 5.9), 5.1),
)
TRAINING = dataclasses.replace(
    FILE,
    accused=(),
    participants=(TracedBroadcast("3", "77", 5, "run-1", 90.0, -1758.0, -7.4),),
    broadcasts=40,
    payload=PayloadReading("01" * 16, None, 17, 0.47),
)
NOBODY = dataclasses.replace(
    FILE,
    accused=(),
    payload=dataclasses.replace(FILE.payload, best_match=None),
    carrier_scores=(-0.3, 1.2, 0.1),
)
NOBODY_ASKED = dataclasses.replace(
    ANSWERS,
    accused=(),
    payload=PayloadReading("-" * 32, None, 0, 1.0),
    word_scores=WordScores((0.0, 0.0, 0.0), float("inf")),
)
EMPTY = dataclasses.replace(
    NOBODY, customers=0, carrier_scores=(), highest_unnamed_score=None, decoys=None
)
VERDICTS = {
    "file": FILE,
    "answers": ANSWERS,
    "training": TRAINING,
    "nobody": NOBODY,
    "nobody asked": NOBODY_ASKED,
    "no customers": EMPTY,
}


def page_of(verdict: Verdict, place: Path) -> str:
    verdict_page.write(verdict, place / "report.html")
    return (place / "report.html").read_text()


def text_of(page: str) -> str:
    """What is read, drawings and tags left out."""
    bare = re.sub(r"<(svg|style).*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", bare)))


@pytest.mark.parametrize("name", VERDICTS)
def test_every_page_says_who_how_sure_why_and_what_is_assumed_first(
    name: str, tmp_path: Path
) -> None:
    page = page_of(VERDICTS[name], tmp_path)
    words = re.findall(r"<dt>(.*?)</dt>", page)
    assert words == ["Who", "How sure", "Why", "Assumed", "Not shown"]
    first, text = text_of(page[: page.index("</dl>")]), text_of(page)
    assert 300 < len(first) < 1600  # characters: a minute's reading
    for assumption in ASSUMPTIONS:
        assert assumption in text
    for line in VERDICTS[name].not_shown:
        assert line in text


def test_who_how_sure_and_why_of_a_file(tmp_path: Path) -> None:
    text = text_of(page_of(FILE, tmp_path))
    for words in (
        "clinic-a: the copy issued to this customer took part",
        "10\N{MINUS SIGN}3126",
        "at most 1 in 1,000,000",
        "not how probable anybody's guilt is",
        "it scores 120.0",
        "highest of all other customers reaches 1.2",
        "1000 decoys",
        "permutation + rescaling",
        "agrees in 32 of 32",
        "2026-01-02 03:04:05",
    ):
        assert words in text, words


def test_who_how_sure_and_why_of_answers(tmp_path: Path) -> None:
    text = text_of(page_of(ANSWERS, tmp_path))
    for words in (
        "Of 32 secret images, 30 were answered as this customer's copy was taught to",
        "10\N{MINUS SIGN}19.2",
        "Pool 1 of its questions: 32 images, of which 30",
        "--predictor",
    ):
        assert words in text, words


def test_who_and_why_of_a_participant(tmp_path: Path) -> None:
    text = text_of(page_of(TRAINING, tmp_path))
    assert "participant 3, round 5: what was sent there in training took part" in text
    assert "With all 43 fingerprints" in text


@pytest.mark.parametrize("name", ["nobody", "nobody asked", "no customers"])
def test_an_innocent_page_names_nobody_and_clears_nobody(name: str, tmp_path: Path) -> None:
    text = text_of(page_of(VERDICTS[name], tmp_path))
    assert "Nobody is named" in text
    assert "does not clear anybody" in text
    assert "clinic-" not in text


@pytest.mark.parametrize("name", VERDICTS)
def test_no_page_tells_a_probability_of_guilt(name: str, tmp_path: Path) -> None:
    text = text_of(page_of(VERDICTS[name], tmp_path)).lower()
    for words in ("% sure", "certain", "posterior", "probably", "confidence", "likelihood that"):
        assert words not in text
    # Shares of the bits or weights, and of innocents, are all the percentages that there are.
    assert set(re.findall(r"[\d.]+ ?%[^;]{0,21}", text)) <= {"9.3% of the marked weight"}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_page_loads_nothing_and_draws_what_can_be_heard(name: str, tmp_path: Path) -> None:
    page = page_of(VERDICTS[name], tmp_path)
    bare = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert "<script" not in page
    assert not re.search(r"(src|href|url)\s*[=(]", bare)
    pictures = re.findall(r"<svg[^>]*>", page)
    assert all('role="img"' in p and re.search(r'aria-label="[^"]{9,}', p) for p in pictures)
    assert len(pictures) == (1 if name == "no customers" else 3)


HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}{% raw %}$\\frac{</td>"


@pytest.mark.parametrize("base", ["file", "answers", "training"])
def test_text_chosen_by_a_thief_is_escaped(base: str, tmp_path: Path) -> None:
    verdict = VERDICTS[base]
    accused = tuple(dataclasses.replace(a, customer=HOSTILE) for a in verdict.accused)
    sent = tuple(
        dataclasses.replace(p, participant=HOSTILE, run=HOSTILE, node=HOSTILE)
        for p in verdict.participants
    )
    hostile = dataclasses.replace(
        verdict,
        suspect=Suspect(f"https://x/{HOSTILE}", "ab" * 32, HOSTILE),
        accused=accused,
        participants=sent,
        payload=dataclasses.replace(verdict.payload, best_match=HOSTILE if accused else None),
        alignment=HOSTILE,
        remarks=(HOSTILE,),
        custody=(Event(HOSTILE, HOSTILE, HOSTILE),),
    )
    page = page_of(hostile, tmp_path)
    assert "<script" not in page
    assert "{{ 7*7 }}" in page  # told as it is, not computed
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5
    tags = re.findall(
        r"</?(?:td|tr|table|script)\b", re.sub(r"<svg.*?</svg>", "", page, flags=re.S)
    )
    assert tags.count("<td") == tags.count("</td")


def test_a_histogram_has_a_bar_for_every_score() -> None:
    assert len(HISTOGRAM) == len(EDGES) + 1


def test_custody_tells_of_the_accused_alone(
    issued_home: OwnerHome, copy_paths: dict[str, Path], tmp_path: Path
) -> None:
    verdict = verifying.verify(issued_home, copy_paths["clinic-a"])
    told = custody.of(issued_home, verdict, "found on a stick")
    whats = [event.what for event in told]
    assert [w.split()[0] for w in whats] == ["Base", "Copy", "Suspect", "Suspect"]
    assert "found on a stick" in whats[2]
    assert told[-1].sha256 == verdict.suspect.sha256
    assert [e.at for e in told if e.at] == sorted(e.at for e in told if e.at)
    page = page_of(dataclasses.replace(verdict, custody=told), tmp_path)
    assert "clinic-a" in page
    assert not any(f"clinic-{letter}" in page for letter in "bcdefgh")
    nobody = dataclasses.replace(verdict, accused=())
    assert [e.what for e in custody.of(issued_home, nobody)] == ["Suspect examined; its digest"]
