"""From a suspect's answers to who may be named.

At each query an answer speaks for a one, for a zero, or for neither. Given the answers, whatever
they are, an innocent's codeword is still random: its score is a sum of independent two-point
variables with integer weights, and the test of :mod:`smdl_flower.fingerprint.accusation` is exact
(theorem 1 of docs/analysis.md). Accused customers' words help to find the others, as in
:mod:`smdl_flower.fingerprint.tracing`.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from smdl_flower.blackbox.asking import Answers
from smdl_flower.blackbox.queries import Bank, Pool
from smdl_flower.fingerprint.accusation import Level, PayloadTest, SoftBits
from smdl_flower.fingerprint.codes import Biases
from smdl_flower.fingerprint.decoders import DECODERS, Evidence
from smdl_flower.fingerprint.keys import CampaignKey, CustomerStreams
from smdl_flower.fingerprint.tracing import Comparison, Test

LABELS, PROBABILITIES = "labels", "probabilities"
# Of a word and pool; counted whether a suspect tells probabilities or not.
TESTS = 2 * len(DECODERS)
_FLOOR = 1e-6  # a rounded probability may be zero


def soft_bits(pool: Pool, answers: Answers) -> dict[str, SoftBits]:
    """Return what the answers say at each query, in [-1, 1], by what it is read from.

    From labels: 1 for a one, -1 for a zero, 0 for any other class. From probabilities: the
    logarithm of their ratio, bent so that half of all are beyond 0.76.

    Example:
        >>> pool = Pool(1, np.zeros((3, 1, 8, 8), np.uint8), np.array([[0, 1]] * 3))
        >>> soft_bits(pool, Answers(np.array([1, 0, 2]), None))["labels"].tolist()
        [1.0, -1.0, 0.0]
    """
    zeros, ones = pool.answers.T
    read = {LABELS: (answers.labels == ones) * 1.0 - (answers.labels == zeros) * 1.0}
    if answers.probabilities is not None:
        logs = np.log(answers.probabilities + _FLOOR)
        rows = np.arange(len(pool))
        ratios = logs[rows, ones] - logs[rows, zeros]
        middle = float(np.median(np.abs(ratios)))
        read[PROBABILITIES] = np.tanh(ratios / middle) if middle > 0 else np.sign(ratios)
    return read


@dataclass(frozen=True)
class Interview:
    """One pool's answers with all that is needed to compare words: a stage of accusing.

    Attributes:
        bank: Of the base model.
        pool: That was asked.
        biases: Probability of a one at each position, ``(m,)``.
        read: Soft bits by what they are read from.
        accused: Customers named in earlier stages.
    """

    bank: Bank
    pool: Pool
    biases: Biases = field(repr=False)
    read: dict[str, SoftBits] = field(repr=False)
    accused: tuple[CustomerStreams, ...] = ()

    @classmethod
    def of(cls, bank: Bank, pool: Pool, key: CampaignKey, answers: Answers) -> "Interview":
        """Return the first stage."""
        return cls(bank, pool, bank.biases(key, pool), soft_bits(pool, answers))

    def after(self, accused: Sequence[CustomerStreams]) -> "Interview":
        """Return the stage that follows these accusations."""
        return Interview(self.bank, self.pool, self.biases, self.read, tuple(accused))

    @property
    def bits(self) -> str:
        """The bits that the labels give, a dash where they give none."""
        return "".join("-01"[int(y != 0) + int(y > 0)] for y in self.read[LABELS])

    @functools.cached_property
    def tests(self) -> dict[str, PayloadTest]:
        """The tests of a word, by what is read and decoder."""
        words = [self.bank.word(key, self.biases, self.pool) for key in self.accused]
        return {
            f"{name} of {view}": PayloadTest(
                decode(Evidence.of(read, 1.0, self.biases, words)), self.biases
            )
            for (view, read), (name, decode) in itertools.product(
                self.read.items(), DECODERS.items()
            )
        }

    def compare(self, key: CustomerStreams) -> Comparison:
        """Return one customer's comparison."""
        word = self.bank.word(key, self.biases, self.pool)
        scores = {name: test.score(word) for name, test in self.tests.items()}
        tests = [Test(name, score, self.tests[name].log_p(score)) for name, score in scores.items()]
        return Comparison(key.customer, tuple(tests), word)

    def standardised(self, comparison: Comparison) -> float:
        """Return a word's first score with an innocent's mean, 0, and deviation, 1.

        If the answers say nothing, it is 0 for everybody.
        """
        return self._standardised(self.tests[comparison.tests[0].name], comparison.tests[0].score)

    def accuses_from(self, level: Level) -> float:
        """Return from what standardised score the first test accuses at a level; may be infinite.

        On this scale it differs from suspect to suspect: the test's law is exact, not Gaussian.
        """
        test = next(iter(self.tests.values()))
        highest = int(test.weights[test.weights > 0].sum())
        if test.log_p(highest) > level.log_p():  # too few answers to prove anything
            return math.inf
        return self._standardised(test, self._least(test, level))

    @staticmethod
    def _least(test: PayloadTest, level: Level) -> int:
        """The smallest score that accuses."""
        low = int(test.weights[test.weights < 0].sum())
        high = int(test.weights[test.weights > 0].sum())
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if test.log_p(middle) <= level.log_p() else (middle + 1, high)
        return low

    def _standardised(self, test: PayloadTest, score: float) -> float:
        mean = float(test.weights @ self.biases)
        variance = float(np.square(test.weights) @ (self.biases * (1 - self.biases)))
        return (score - mean) / variance**0.5 if variance > 0 else 0.0
