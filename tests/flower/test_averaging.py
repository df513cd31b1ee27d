import numpy as np
import pytest

from smdl_flower.flower.averaging import Averaging


def models(count):
    rng = np.random.default_rng(0)
    return [{"w": rng.normal(size=(3, 2)).astype(np.float32)} for _ in range(count)]


def test_the_tail_is_the_plain_mean_of_the_last_third_and_before_it_the_model_itself():
    average, seen = Averaging("tail", 20), models(20)
    released = [average.update(i + 1, m)["w"] for i, m in enumerate(seen)]
    for before in range(14):
        np.testing.assert_array_equal(released[before], seen[before]["w"])
    expected = np.mean([m["w"] for m in seen[14:]], axis=0)
    np.testing.assert_allclose(released[-1], expected, rtol=1e-5, atol=1e-6)


def test_a_moving_average_follows_its_recurrence_from_the_first_model():
    average, seen = Averaging("ema", 6), models(6)
    expected = seen[0]["w"].astype(float)
    for number, model in enumerate(seen, start=1):
        expected = 0.9 * expected + 0.1 * model["w"]
        np.testing.assert_allclose(average.update(number, model)["w"], expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["none", "tail", "ema"])
def test_going_on_from_a_state_gives_the_very_same_average(kind):
    seen = models(10)
    whole, first = Averaging(kind, 10), Averaging(kind, 10)
    for i, m in enumerate(seen):
        end = whole.update(i + 1, m)["w"]
    for i, m in enumerate(seen[:8]):
        first.update(i + 1, m)
    rest = Averaging(kind, 10, first.state)
    for i, m in enumerate(seen[8:], start=9):
        again = rest.update(i, m)["w"]
    np.testing.assert_array_equal(end, again)


def test_what_does_not_change_is_not_changed_by_averaging():
    model = models(1)[0]
    average = Averaging("ema", 5)
    for number in range(1, 6):
        np.testing.assert_array_equal(average.update(number, model)["w"], model["w"])
    np.testing.assert_array_equal(Averaging("none", 5).current(model)["w"], model["w"])
