"""Codewords: exactly Bernoulli, independent, and the same forever."""

import itertools

import numpy as np
import pytest

from smdl_flower.fingerprint.codes import Code, Kind, codeword, nuida_biases, to_text
from smdl_flower.fingerprint.keys import OwnerKey

CAMPAIGN = OwnerKey(bytes(32)).campaign("00" * 32)
FAIR = np.full(304, 0.5)


@pytest.mark.parametrize("length", [1, 32, 304, 8192])
def test_a_bit_is_one_where_its_key_word_is_below_the_bias(length: int) -> None:
    key = CAMPAIGN.customer("clinic-a")
    biases = np.random.default_rng(length).integers(0, 65_537, length) / 65_536
    words = key.stream("codeword").uint16(length).astype(int)
    expected = [int(word < round(bias * 65_536)) for word, bias in zip(words, biases, strict=True)]
    word = codeword(key, biases)
    assert word.tolist() == expected
    assert word.dtype == np.uint8


def test_bias_zero_gives_no_one_and_bias_one_no_zero() -> None:
    key = CAMPAIGN.customer("clinic-a")
    assert codeword(key, np.zeros(8192)).sum() == 0
    assert codeword(key, np.ones(8192)).sum() == 8192


def test_the_flat_code_is_fair_at_every_position() -> None:
    assert Code(5).biases(CAMPAIGN).tolist() == [0.5] * 5


def test_a_shorter_codeword_begins_a_longer_one() -> None:
    key = CAMPAIGN.customer("clinic-a")
    assert codeword(key, FAIR[:32]).tolist() == codeword(key, FAIR)[:32].tolist()


def test_codewords_of_different_customers_agree_in_half_their_bits() -> None:
    words = np.array([codeword(CAMPAIGN.customer(f"c{i}"), FAIR) for i in range(200)])
    pairs = [int((a == b).sum()) for a, b in itertools.combinations(words, 2)]
    # Bin(304, 1/2): mean 152, deviation 8.72. The mean of the 19,900 pairwise independent counts
    # has standard error 8.72 / sqrt(19,900) = 0.062; the fullest and emptiest stay within seven
    # deviations (19,900 x 2.6e-12 = 5e-8).
    assert abs(np.mean(pairs) - 152) < 5 * 0.062
    assert min(pairs) > 152 - 7 * 8.72
    assert max(pairs) < 152 + 7 * 8.72


def test_ones_are_as_frequent_as_the_bias_says() -> None:
    for bias in (1 / 65_536, 0.25, 0.9):
        ones = sum(
            int(codeword(CAMPAIGN.customer(f"c{i}"), np.full(8192, bias)).sum()) for i in range(32)
        )
        # Bin(262,144, bias): five standard deviations.
        assert abs(ones - 262_144 * bias) <= 5 * (262_144 * bias * (1 - bias)) ** 0.5


def test_three_colluders_minority_is_no_other_customers_codeword() -> None:
    # With a linear code it would be: the minority of three codewords is their sum.
    words = [codeword(CAMPAIGN.customer(f"c{i}"), FAIR) for i in range(40)]
    minority = words[0] ^ words[1] ^ words[2]
    agreements = [int((minority == word).sum()) for word in words[3:]]
    # Bin(304, 1/2) again: none of 37 innocents beyond seven deviations.
    assert max(agreements) < 152 + 7 * 8.72


def test_released_codewords_never_change() -> None:
    word = codeword(CAMPAIGN.customer("clinic-a"), FAIR)
    assert to_text(word[:64]) == "1110111100101111110101011110111101010111011001010000110101001011"


def test_text_of_bits_reads_from_the_first() -> None:
    assert to_text(np.array([1, 0, 0, 1, 1], np.uint8)) == "10011"
    assert to_text(np.empty(0, np.uint8)) == ""


@pytest.mark.parametrize("kind", ["flat", "nuida", "arcsine"])
def test_biases_are_multiples_of_the_unit_strictly_between_zero_and_one(kind: Kind) -> None:
    cuts = Code(8192, kind, coalition=50).biases(CAMPAIGN) * 65_536
    assert (cuts == np.rint(cuts)).all()
    assert cuts.min() >= 1
    assert cuts.max() <= 65_535


@pytest.mark.parametrize("kind", ["nuida", "arcsine"])
def test_biased_codes_are_symmetric_and_secret(kind: Kind) -> None:
    biases = Code(8192, kind, coalition=8).biases(CAMPAIGN)
    # Standard deviation of a bias is below 0.36 (arcsine, no cut-off): five standard errors.
    assert abs(biases.mean() - 0.5) < 5 * 0.36 / 8192**0.5
    other = OwnerKey(bytes(31) + b"1").campaign("00" * 32)
    assert not np.array_equal(biases, Code(8192, kind, coalition=8).biases(other))


def test_nuida_biases_for_three_and_eight_traitors_are_those_of_the_paper() -> None:
    # Nuida et al., DCC 52 (2009), table 1: c = 3, 4 has 0.21132 and 0.78868 with chance 1/2 each;
    # c = 7, 8 has 0.06943, 0.33001 and their mirrors with chances 0.24833 and 0.25167.
    for coalition in (3, 4):
        biases, chances = nuida_biases(coalition)
        assert biases == pytest.approx([0.21132, 0.78868], abs=1e-5)
        assert chances == pytest.approx([0.5, 0.5])
    biases, chances = nuida_biases(8)
    assert biases == pytest.approx([0.06943, 0.33001, 0.66999, 0.93057], abs=1e-5)
    assert chances == pytest.approx([0.24833, 0.25167, 0.25167, 0.24833], abs=1e-5)


def test_nuida_biases_occur_as_often_as_their_law_says() -> None:
    points, chances = nuida_biases(8)
    found = Code(8192, "nuida", coalition=8).biases(CAMPAIGN)
    for point, chance in zip(points, chances, strict=True):
        count = int((np.abs(found - point) < 1e-4).sum())
        assert abs(count - 8192 * chance) < 5 * (8192 * chance * (1 - chance)) ** 0.5


def test_arcsine_biases_keep_their_cut_off() -> None:
    biases = Code(8192, "arcsine", coalition=4).biases(CAMPAIGN)
    cut_off = 1 / (300 * 4)
    assert cut_off - 1e-5 <= biases.min() < 5 * cut_off
    # P(p < 1/4) = 1/3 but for the cut-off, which moves it by less than 0.02.
    assert abs((biases < 0.25).mean() - 1 / 3) < 0.02 + 5 * (2 / 9 / 8192) ** 0.5


@pytest.mark.parametrize(("length", "coalition"), [(0, 4), (304, 1)])
def test_a_code_without_bits_or_for_a_single_traitor_is_refused(
    length: int, coalition: int
) -> None:
    with pytest.raises(ValueError, match="not a code"):
        Code(length, "nuida", coalition)
