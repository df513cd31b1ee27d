"""Judging answers: exact chances, whatever was answered; power where it is due."""

import itertools
import math

import numpy as np
import pytest

from smdl_flower.blackbox.answering import TESTS, Interview, soft_bits
from smdl_flower.blackbox.asking import Answers
from smdl_flower.blackbox.queries import Bank, Pool
from smdl_flower.fingerprint import decoys, tracing
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.keys import CampaignKey

KEY = CampaignKey(b"answers".ljust(32))
CLASSES = 6


def interview(code, seed=0, said=None, probabilities=False):
    """A pool of random answer pairs, answered at random or by a word."""
    rng = np.random.default_rng(seed)
    pairs = np.array([rng.permutation(CLASSES)[:2] for _ in range(code.length)])
    pool = Pool(1, np.zeros((code.length, 1, 8, 8), np.uint8), pairs)
    bank = Bank(code, (pool,))
    if probabilities:
        told = rng.dirichlet(np.ones(CLASSES), code.length)
        answers = Answers(told.argmax(1), told)
    else:
        labels = rng.integers(0, CLASSES, code.length)
        if said is not None:
            labels = pool.wanted(bank.word(KEY.customer(said), bank.biases(KEY, pool), pool))
        answers = Answers(np.asarray(labels, np.int64), None)
    return Interview.of(bank, pool, KEY, answers)


def test_p_values_are_the_share_of_all_words_that_score_as_much():
    asked = interview(Code(10), probabilities=True)
    words = np.array(list(itertools.product((0, 1), repeat=10)), np.uint8)
    assert len(asked.tests) == TESTS
    for test in asked.tests.values():
        scores = np.array([test.score(word) for word in words])
        for score in np.unique(scores):
            share = (scores >= score).mean()
            assert math.exp(test.log_p(int(score))) == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("kind", ["flat", "nuida"])
def test_p_values_of_20_000_random_codes_are_calibrated(kind):
    # Binomial(20,000, p): four deviations above 200 and 20 are 256 and 38; exact p-values of
    # discrete scores are never smaller than they should be.
    asked = interview(Code(304, kind), probabilities=True)
    log_ps: dict[str, list[float]] = {name: [] for name in asked.tests}
    for number in range(20_000):
        word = asked.bank.word(KEY.customer(f"random/{number}"), asked.biases, asked.pool)
        for name, test in asked.tests.items():
            log_ps[name].append(test.log_p(test.score(word)))
    for found in log_ps.values():
        p_values = np.exp(found)
        assert (p_values <= 0.01).sum() <= 256
        assert (p_values <= 0.001).sum() <= 38
        assert (p_values <= 0.01).sum() >= 100  # and not useless: half of them at least


@pytest.mark.parametrize("kind", ["flat", "nuida", "arcsine"])
def test_whoever_gives_a_customers_answers_is_that_customer_and_nobody_else(kind):
    asked = interview(Code(304, kind), said="guilty")
    customers = [KEY.customer(n) for n in ("guilty", *(f"clinic-{i}" for i in range(119)))]
    level = Level(1e-6, words=120, hypotheses=TESTS)
    trace = tracing.trace(asked, customers, level)
    assert [finding.customer for finding in trace.findings] == ["guilty"]
    if kind == "flat":  # 2^-304
        assert trace.findings[0].tests[0].log_p == pytest.approx(-304 * math.log(2), rel=0.03)


def test_answers_of_two_customers_in_turn_name_both():
    asked = interview(Code(608))
    words = [asked.bank.word(KEY.customer(n), asked.biases, asked.pool) for n in ("one", "two")]
    turns = np.arange(608) % 2
    labels = np.where(turns == 0, *(asked.pool.wanted(word) for word in words))
    asked = Interview.of(asked.bank, asked.pool, KEY, Answers(labels, None))
    customers = [KEY.customer(n) for n in ("one", "two", *(f"clinic-{i}" for i in range(50)))]
    trace = tracing.trace(asked, customers, Level(1e-6, words=52, hypotheses=TESTS))
    assert {finding.customer for finding in trace.findings} == {"one", "two"}


@pytest.mark.parametrize("answer", ["always one class", "never one of two"])
def test_answers_that_say_nothing_name_nobody_and_decoys_are_as_they_must(answer):
    asked = interview(Code(304))
    neither = np.array([next(c for c in range(CLASSES) if c not in p) for p in asked.pool.answers])
    labels = np.full(304, 3) if answer == "always one class" else neither
    asked = Interview.of(asked.bank, asked.pool, KEY, Answers(labels, None))
    compared = [asked.compare(key) for key in decoys.keys(KEY)]
    summary = decoys.check_words(
        [asked.standardised(c) for c in compared],
        {name: [c.log_p(name) for c in compared] for name in asked.tests},
    )
    assert summary.deviation < 1.2
    if answer == "never one of two":
        assert asked.bits == "-" * 304
        assert all(c.log_p("symmetric of labels") == 0.0 for c in compared)
    trace = tracing.trace(asked, decoys.keys(KEY), Level(1e-6, words=1000, hypotheses=TESTS))
    assert trace.findings == ()


def test_soft_bits_are_bounded_and_have_the_sign_of_the_ratio():
    pool = Pool(1, np.zeros((4, 1, 8, 8), np.uint8), np.array([[0, 1]] * 4))
    told = np.array([[0.9, 0.1], [0.1, 0.9], [0.0, 1.0], [0.5, 0.5]])
    read = soft_bits(pool, Answers(told.argmax(1), told))
    assert np.sign(read["probabilities"]).tolist() == [-1, 1, 1, 0]
    assert (np.abs(read["probabilities"]) <= 1).all()
    assert read["labels"].tolist() == [-1, 1, 1, -1]


def test_equal_probabilities_everywhere_say_nothing():
    pool = Pool(1, np.zeros((4, 1, 8, 8), np.uint8), np.array([[0, 1]] * 4))
    told = np.full((4, 2), 0.5)
    assert (soft_bits(pool, Answers(told.argmax(1), told))["probabilities"] == 0).all()
