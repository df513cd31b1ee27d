"""Marks of models sent in training: put in, taken out, found again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.errors import NotComparableError
from smdl_flower.fingerprint import broadcast, carriers, decoys
from smdl_flower.fingerprint.embedding import CarrierMark
from smdl_flower.fingerprint.keys import CampaignKey
from smdl_flower.weights import Weights

STRENGTH = 0.1


@pytest.fixture(scope="module", params=[None, 2000], ids=["full", "compressed"])
def mark(
    request: pytest.FixtureRequest, small_base: Weights, small_key: CampaignKey
) -> CarrierMark:
    return broadcast.mark_of(small_base, small_key, request.param)


def key(campaign: CampaignKey, node: int = 1):
    return broadcast.word_key(campaign, str(node))


def share(mark, campaign, vector, node=1):
    """How much of a node's word is in a model's deviation, tensor by tensor, in units of scale."""
    word = np.concatenate([v for _, v in mark.carrier(key(campaign, node))]).astype(np.float64)
    change = vector.astype(np.float64) - mark.base
    return [
        float(word[t.where] @ change[t.where] / (word[t.where] @ word[t.where]) / t.scale)
        for t in mark.layout.tensors
    ]


def test_a_mark_has_the_strength_asked_for_in_each_tensor(mark, small_key):
    sent = broadcast.add(mark, key(small_key), STRENGTH)
    for tensor in mark.layout.tensors:
        change = (sent - mark.base)[tensor.where] / tensor.scale
        assert np.sqrt(np.mean(change**2)) == pytest.approx(STRENGTH, rel=0.05)
    np.testing.assert_allclose(share(mark, small_key, sent), STRENGTH, rtol=1e-4)


def test_a_node_always_gets_the_same_mark_of_a_model_and_no_other_does(mark, small_key):
    first, again = (broadcast.add(mark, key(small_key), STRENGTH) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = broadcast.add(mark, key(small_key, 2), STRENGTH) - mark.base
    # Correlation of independent words, 12,800 or 2,000 values: five standard errors.
    assert abs(np.corrcoef(first - mark.base, other)[0, 1]) < 5 / np.sqrt(2000)


def test_no_customers_name_leads_to_a_participants_word(small_key):
    assert key(small_key).secret != small_key.customer("1").secret
    assert key(small_key).customer == "training/1"


def test_a_reply_without_training_becomes_the_model_itself(mark, small_key):
    sent = broadcast.add(mark, key(small_key), STRENGTH)
    taken_out = broadcast.take_out(mark, key(small_key), sent)
    np.testing.assert_allclose(taken_out, mark.base, atol=1e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.floats(1e-4, 10),
    held=st.floats(-2, 2).filter(lambda h: abs(h) > 1e-3 or h == 0),
)
def test_whatever_comes_back_nothing_of_the_word_is_left(small_base, small_key, seed, size, held):
    """Also of a participant that never added its mark (held = 0), or sent it back twice."""
    mark = broadcast.mark_of(small_base, small_key)
    rng = np.random.default_rng(seed)
    update = (rng.standard_normal(mark.layout.size) * size).astype(np.float32)
    sent = broadcast.add(mark, key(small_key), STRENGTH)
    reply = mark.base + np.float32(held) * (sent - mark.base) + update
    taken_out = broadcast.take_out(mark, key(small_key), reply)
    # float32 rounding of weights of size about size + 1, over 6,400 of them.
    assert np.abs(share(mark, small_key, taken_out)).max() < 1e-6 * (size + 1) / 0.02
    # The rest of the update is kept: one dimension of thousands is lost.
    kept = taken_out - mark.base
    assert np.corrcoef(kept, update)[0, 1] > 0.99


def test_the_arguments_are_not_changed(mark, small_key):
    reply = mark.base + np.float32(1)
    before = reply.copy(), mark.base.copy()
    broadcast.take_out(mark, key(small_key), reply)
    broadcast.add(mark, key(small_key), STRENGTH)
    np.testing.assert_array_equal(reply, before[0])
    np.testing.assert_array_equal(mark.base, before[1])


def test_the_receiver_is_found_and_nobody_else(mark, small_base, small_key):
    sent = mark.layout.restore(small_base, broadcast.add(mark, key(small_key), STRENGTH))
    reading = broadcast.read(mark, sent, [])
    assert reading.score(key(small_key)) > 30
    innocents = [reading.score(k) for k in decoys.keys(small_key)]
    decoys.check(innocents, {})


def test_the_model_itself_names_nobody(mark, small_base, small_key):
    later = {name: array + np.float32(0.01) for name, array in small_base.items()}
    for models in ([], [later]):
        reading = broadcast.read(mark, small_base, models)
        assert reading.score(key(small_key)) == 0.0


def test_what_later_models_explain_does_not_accuse(small_base, small_key):
    """A later model that holds a participant's word, and a suspect made from it."""
    mark = broadcast.mark_of(small_base, small_key)
    rng = np.random.default_rng(3)
    step = rng.standard_normal(mark.layout.size).astype(np.float32) * np.float32(0.1)
    held = broadcast.add(mark, key(small_key), STRENGTH) - mark.base
    later = mark.layout.restore(small_base, mark.base + step + held)
    suspect = mark.layout.restore(small_base, mark.base - 2 * (step + held))
    negative = broadcast.word_key(small_key, "1")
    alone, both = (broadcast.read(mark, suspect, models) for models in ([], [later]))
    assert carriers.score(negative, alone.directions[0]) < -8
    assert both.directions[1].any() == np.False_
    forward = mark.layout.restore(small_base, mark.base + 2 * (step + held))
    assert broadcast.read(mark, forward, []).score(negative) > 8
    assert broadcast.read(mark, forward, [later]).score(negative) == 0.0


def test_a_suspect_of_other_shapes_is_not_comparable(mark, small_base):
    with pytest.raises(NotComparableError, match=r"fc.weight \[80, 80\] \(found none\)"):
        broadcast.read(mark, {k: v for k, v in small_base.items() if k != "fc.weight"}, [])
