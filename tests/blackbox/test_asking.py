"""Asking: whatever a predictor does, there are proper answers or one error of ours."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from smdl_flower.blackbox import asking
from smdl_flower.blackbox.asking import BATCH, ask
from smdl_flower.errors import ConfigError, SuspectAnswersError

IMAGES = np.arange(100 * 64, dtype=np.uint64).astype(np.uint8).reshape(100, 1, 8, 8)
IMAGES[:, 0, 0, 0] = np.arange(100)  # so that a predictor can tell which it is given


def uniform(images):
    return np.full((len(images), 4), 0.25)


def fail(_):
    raise OSError("no route to host")


def leave(_):
    raise SystemExit(0)


def sleep(_):
    time.sleep(5)


class Explosive:
    def __array__(self, *_, **__):
        raise RuntimeError("boom")


HOSTILE = {
    "fails": (fail, "no route"),
    "exits": (leave, "SystemExit"),
    "nothing": (lambda _: None, "shape"),
    "text": (lambda _: "cat", "shape"),
    "too few": (lambda x: np.zeros(len(x) - 1, np.int64), "shape"),
    "too many": (lambda x: np.zeros(len(x) + 1, np.int64), "shape"),
    "three dimensions": (lambda x: np.zeros((len(x), 4, 1)), "shape"),
    "objects": (lambda x: np.array([{}] * len(x)), "integers"),
    "other objects": (lambda x: np.array([set()] * len(x)), "integers"),
    "some likeliest": (lambda x: [{1: 0.5}] * (len(x) - 1) + [None], "likeliest"),
    "likeliest unknown": (lambda x: [{4: 0.5}] * len(x), "0 to 3"),
    "likeliest true": (lambda x: [{True: 0.5}] * len(x), "integers"),
    "likeliest named": (lambda x: [{"cat": 0.5}] * len(x), "integers"),
    "likeliest negative": (lambda x: [{1: -0.5}] * len(x), "between 0 and 1"),
    "likeliest NaN": (lambda x: [{1: np.nan}] * len(x), "between 0 and 1"),
    "likeliest huge": (lambda x: [{1: 10**400}] * len(x), "between 0 and 1"),
    "likeliest text": (lambda x: [{1: "0.5"}] * len(x), "between 0 and 1"),
    "likeliest lists": (lambda x: [{1: [0.5], 2: [1, 2]}] * len(x), "between 0 and 1"),
    "strings": (lambda x: np.array(["3"] * len(x)), "integers"),
    "booleans": (lambda x: np.ones(len(x), bool), "integers"),
    "floats as labels": (lambda x: np.ones(len(x)), "integers"),
    "negative labels": (lambda x: np.full(len(x), -1), "from -1"),
    "labels too large": (lambda x: np.full(len(x), 4), "to 4"),
    "huge labels": (lambda x: np.full(len(x), 2**64 - 1, np.uint64), "labels go"),
    "other classes": (lambda x: np.full((len(x), 5), 0.2), "5 classes"),
    "whole numbers": (lambda x: np.ones((len(x), 4), np.int64), "floating"),
    "not a number": (lambda x: np.full((len(x), 4), np.nan), "finite"),
    "infinite": (lambda x: np.full((len(x), 4), np.inf), "finite"),
    "complex": (lambda x: np.ones((len(x), 4), complex), "floating"),
    "ragged": (lambda x: [[0.5]] + [[0.1, 0.2]] * (len(x) - 1), "failed"),
    "an object that explodes": (lambda _: Explosive(), "boom"),
    "changes its mind": (
        lambda x: uniform(x) if len(x) == BATCH else np.zeros(len(x), np.int64),
        "some batches",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_predictor_that_does_not_answer_as_a_classifier_is_refused(kind):
    predictor, reason = HOSTILE[kind]
    with pytest.raises(SuspectAnswersError, match=reason) as caught:
        ask(predictor, IMAGES, 4)
    assert caught.value.exit_code == 3


def test_a_predictor_that_hangs_is_left_behind():
    started = time.monotonic()
    with pytest.raises(SuspectAnswersError, match=r"within 0\.05 seconds"):
        ask(sleep, IMAGES, 4, timeout=0.05)
    assert time.monotonic() - started < 3


def test_labels_and_probabilities_are_taken_in_the_order_of_the_images():
    labels = ask(lambda x: x[:, 0, 0, 0] // 64, IMAGES, 4)
    assert labels.labels.tolist() == (IMAGES[:, 0, 0, 0] // 64).tolist()
    assert labels.probabilities is None
    said = np.random.default_rng(1).dirichlet(np.ones(4), 100)

    def known(images):  # some of the answers come in single precision
        found = said[images[:, 0, 0, 0]]
        return found if len(images) == BATCH else found.astype(np.float32)

    both = ask(known, IMAGES, 4)
    assert (both.labels == said.argmax(1)).all()
    assert both.probabilities is not None
    assert np.allclose(both.probabilities, said, atol=1e-7)


def test_lists_and_half_precision_are_answers_too():
    assert ask(lambda x: [3] * len(x), IMAGES, 4).labels.tolist() == [3] * 100
    half = ask(lambda x: uniform(x).astype(np.float16), IMAGES, 4)
    assert half.probabilities is not None


def test_questions_are_put_in_an_order_of_chance():
    orders: list[list[int]] = []

    def listen(images):
        orders[-1] += images[:, 0, 0, 0].tolist()
        return np.zeros(len(images), np.int64)

    for _ in range(2):
        orders.append([])
        ask(listen, IMAGES, 4, batch=7)
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(IMAGES[:, 0, 0, 0].tolist())
    assert orders[0] != orders[1]  # 100 images in the same order twice: once in 1e158


def test_batches_are_as_large_as_asked_for():
    sizes = []

    def count(images):
        sizes.append(len(images))
        return np.zeros(len(images), np.int64)

    ask(count, IMAGES, 4, batch=30)
    assert sizes == [30, 30, 30, 10]


def test_logits_become_probabilities_and_noised_probabilities_keep_their_order():
    logits = np.array([[3.0, -1.0, 0.0, -40.0], [1e308, -1e308, 0.0, 0.0]])
    answers = ask(lambda x: np.tile(logits[0], (len(x), 1)), IMAGES[:3], 4)
    powers = np.exp(logits[0])
    assert answers.probabilities is not None
    assert np.allclose(answers.probabilities, powers / powers.sum(), rtol=1e-12)
    huge = ask(lambda x: np.tile(logits[1], (len(x), 1)), IMAGES[:3], 4)
    assert huge.probabilities is not None
    assert huge.probabilities.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 3
    noised = ask(lambda x: np.tile([0.7, 0.4, -0.1, 0.02], (len(x), 1)), IMAGES[:3], 4)
    assert noised.labels.tolist() == [0] * 3
    assert noised.probabilities is not None
    assert (np.diff(noised.probabilities[:, [0, 1, 3, 2]]) < 0).all()


def test_what_scores_mean_does_not_depend_on_batches():
    """One logit below zero among many that could be probabilities."""
    scores = np.full((100, 4), 0.25)
    scores[:, 0] = 0.5
    scores[-1, 1] = -3.0

    def say(images):
        return scores[images[:, 0, 0, 0]]

    ones, sixties = (ask(say, IMAGES, 4, batch=n).probabilities for n in (1, 60))
    assert ones is not None
    assert sixties is not None
    assert (ones == sixties).all()
    assert not np.allclose(ones[:, 0], 0.5)


def test_the_likeliest_classes_share_out_the_rest():
    answers = ask(lambda x: [{2: 0.5, np.int64(0): 0.3}] * len(x), IMAGES[:3], 4)
    assert answers.probabilities is not None
    assert np.allclose(answers.probabilities, [0.3, 0.1, 0.5, 0.1])
    assert answers.labels.tolist() == [2] * 3
    # Never more than a class that was told.
    answers = ask(lambda x: [{1: 0.2}] * len(x), IMAGES[:3], 4)
    assert answers.probabilities is not None
    assert np.allclose(answers.probabilities, [0.2, 0.2, 0.2, 0.2])
    every = ask(lambda x: [dict.fromkeys(range(4), 0.25)] * len(x), IMAGES[:3], 4)
    assert every.probabilities is not None
    assert np.allclose(every.probabilities, 0.25)


def test_whoever_is_asked_cannot_change_the_questions():
    images = IMAGES.copy()

    def scribble(batch):
        batch[:] = 0
        return np.zeros(len(batch), np.int64)

    ask(scribble, images, 4)
    assert (images == IMAGES).all()


def test_the_digest_stands_for_the_answers():
    ones, zeros = (ask(lambda x, v=v: np.full(len(x), v), IMAGES, 4) for v in (1, 0))
    assert ones.digest() == ask(lambda x: [1] * len(x), IMAGES, 4).digest()
    assert len({ones.digest(), zeros.digest(), ask(uniform, IMAGES, 4).digest()}) == 3


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int8, np.uint64, np.bool_]),
        arrays.array_shapes(min_dims=0, max_dims=3, max_side=6),
    )
)
def test_any_array_ends_in_answers_or_in_our_own_error(said):
    try:
        answers = ask(lambda _: said, IMAGES[:5], 4)
    except SuspectAnswersError:
        return
    assert answers.labels.shape == (5,)
    assert ((answers.labels >= 0) & (answers.labels < 4)).all()
    if answers.probabilities is not None:
        assert np.isfinite(answers.probabilities).all()


@pytest.mark.parametrize("name", ["", "json", "no_such_module:f", "json:nothing", "json:__doc__"])
def test_a_name_of_no_function_is_a_mistake_of_the_user(name):
    with pytest.raises(ConfigError, match="--predictor"):
        asking.load(name)


def test_a_function_is_found_by_its_name():
    assert asking.load("numpy:zeros_like")(IMAGES).shape == IMAGES.shape  # type: ignore[attr-defined]
