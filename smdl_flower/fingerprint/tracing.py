"""The accusation process: compare every word with a reading, name, take out what is explained.

Each stage tests the carrier and three payload decoders. Whoever is accused helps to find the
others: its carrier is cancelled and its codeword is known to the decoders (joint decoding with side
information, Meerwald and Furon, IEEE TIFS 2012). Theorem 2 of docs/analysis.md bounds the chance
that any innocent is named in any stage.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from smdl_flower.fingerprint import carriers, codes
from smdl_flower.fingerprint.accusation import Level, PayloadTest, carrier_log_p
from smdl_flower.fingerprint.cancellation import cancel
from smdl_flower.fingerprint.codes import Bits
from smdl_flower.fingerprint.decoders import DECODERS, Evidence
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.extraction import Reading
from smdl_flower.fingerprint.keys import CustomerStreams

TESTS = 1 + len(DECODERS)
STAGES = 32
CARRIER = "carrier"
# Beyond that many customers, only the promising are compared again after the first stage.
FEW = 1000
PROMISING_SCORE = 2.0
PROMISING_LOG_P = math.log(0.005)


@dataclass(frozen=True)
class Test:
    """One test of one word.

    Attributes:
        name: ``carrier`` or a decoder.
        score: z of the carrier, or the payload's integer score.
        log_p: ln of the p-value, or of its bound.
    """

    name: str
    score: float
    log_p: float


@dataclass(frozen=True)
class Comparison:
    """One customer's word against a reading, at one stage.

    Attributes:
        customer: Whose word.
        tests: Carrier first, if there is one, then the decoders.
        word: The codeword, ``(m,)``.
    """

    customer: str
    tests: tuple[Test, ...]
    word: Bits = field(repr=False)

    @property
    def carrier_score(self) -> float:
        """The score z of the carrier."""
        return self.tests[0].score

    @property
    def promising(self) -> bool:
        """Whether later stages might accuse; about one innocent in thirty is promising.

        A function of the customer's own word. A list of the best would not do: who is on it depends
        on innocents' words, and then theorem 2 does not hold.
        """
        return any(
            test.score >= PROMISING_SCORE if test.name == CARRIER else test.log_p <= PROMISING_LOG_P
            for test in self.tests
        )

    def log_p(self, name: str) -> float:
        """Return ln of the p-value of one test."""
        return next(test.log_p for test in self.tests if test.name == name)

    def accusing(self, log_p: float) -> tuple[Test, ...]:
        """Return the tests that accuse at this level, the strongest first."""
        found = (test for test in self.tests if test.log_p <= log_p)
        return tuple(sorted(found, key=lambda test: test.log_p))


@dataclass(frozen=True)
class Finding:
    """A customer who is accused.

    Attributes:
        customer: Who.
        stage: At which, the first being 1.
        tests: Those that accuse, the strongest first.
        threshold: ln of the largest p-value that accuses at this stage.
    """

    customer: str
    stage: int
    tests: tuple[Test, ...]
    threshold: float


class Stage(Protocol):
    """All tests of one stage of accusing."""

    def compare(self, key: CustomerStreams) -> Comparison:
        """Return one customer's comparison."""

    def after(self, accused: Sequence[CustomerStreams]) -> "Stage":
        """Return the tests of the stage that follows these accusations."""


class Comparator:
    """All tests of one stage: a reading, given who was accused before.

    Args:
        mark: Of the base model.
        reading: Of the suspect.
        accused: Customers named in earlier stages.
    """

    def __init__(
        self, mark: Mark, reading: Reading, accused: Sequence[CustomerStreams] = ()
    ) -> None:
        self._mark, self._reading = mark, reading
        self._direction = cancel(reading, accused).astype(np.float64)  # once, not per customer
        self._tests = payload_tests(mark, reading, accused)

    def after(self, accused: Sequence[CustomerStreams]) -> "Comparator":
        """Return the tests of the stage that follows these accusations."""
        return Comparator(self._mark, self._reading, accused)

    def compare(self, key: CustomerStreams) -> Comparison:
        """Return one customer's comparison."""
        score = carriers.score(key, self._direction)
        word = codes.codeword(key, self._mark.biases)
        tests = [Test(CARRIER, score, carrier_log_p(score))]
        for name, test in self._tests.items():
            payload = test.score(word)
            tests.append(Test(name, payload, test.log_p(payload)))
        return Comparison(key.customer, tuple(tests), word)


def payload_tests(
    mark: Mark, reading: Reading, accused: Sequence[CustomerStreams] = ()
) -> dict[str, PayloadTest]:
    """Return the test of each decoder, given the words of customers accused before."""
    words = [codes.codeword(key, mark.biases) for key in accused]
    evidence = Evidence.of(reading.soft_bits, mark.amplitude, mark.biases, words)
    return {name: PayloadTest(decode(evidence), mark.biases) for name, decode in DECODERS.items()}


@dataclass(frozen=True)
class Trace:
    """The outcome of the process.

    Attributes:
        comparisons: Of all customers at the first stage.
        findings: Who is accused, by stage, the strongest first within each.
    """

    comparisons: tuple[Comparison, ...]
    findings: tuple[Finding, ...]


def trace(first: Stage, customers: Iterable[CustomerStreams], level: Level) -> Trace:
    """Compare all customers with a reading and name the traitors, stage by stage.

    Args:
        first: Of the first stage.
        customers: Keys of everybody who was issued a copy.
        level: What each test may spend.
    """
    compared = [(key, first.compare(key)) for key in customers]
    comparisons = tuple(comparison for _, comparison in compared)
    findings = _findings(comparisons, level, stage=1)
    few = level.words <= FEW
    keys = {key.customer: key for key, c in compared if few or c.promising}
    new = findings
    for stage in range(2, STAGES + 1):
        named = {finding.customer for finding in findings}
        remaining = [key for name, key in keys.items() if name not in named]
        if not new or not remaining:
            break
        following = first.after([keys[name] for name in sorted(named)])
        new = _findings(map(following.compare, remaining), level, stage)
        findings += new
    return Trace(comparisons, tuple(findings))


def _findings(comparisons: Iterable[Comparison], level: Level, stage: int) -> list[Finding]:
    threshold = level.log_p(stage)
    found = [
        Finding(c.customer, stage, tests, threshold)
        for c in comparisons
        if (tests := c.accusing(threshold))
    ]
    return sorted(found, key=lambda finding: finding.tests[0].log_p)
