"""Which tensors are the model's: told by names and form, never by their values."""

import pytest

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects.foreign import Foreign
from smdl_flower.suspects.naming import Naming
from smdl_flower.suspects.tensors import StoredTensor

ONE = StoredTensor(memoryview(bytes(4)), "F32", (1,))
COUNTER = StoredTensor(memoryview(bytes(8)), "I64", (1,))
STATE = {"a.weight": ONE, "a.bias": ONE}


def names(tree):
    naming = Naming()
    return sorted(naming.tensors(tree)), naming.remarks


@pytest.mark.parametrize(
    "tree",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"state_dict": STATE, "rng": COUNTER},
        {"anything": STATE},
        {"model": {"state_dict": STATE}},
        {"state_dict": STATE, "optimizer_states": [{"state": {0: {"m": ONE}}, "param_groups": []}]},
        {"optimizer": {"state": {0: {"m": ONE}}, "param_groups": []}, "anything": STATE},
        {"_orig_mod.a.weight": ONE, "_orig_mod.a.bias": ONE},
        Foreign(
            "Net", {"_modules": {"a": Foreign("L", {"_parameters": {"weight": ONE, "bias": ONE}})}}
        ),
    ],
)
def test_one_model_is_found_wherever_it_is(tree):
    assert names(tree) == (["a.bias", "a.weight"], [])


def test_averages_beside_the_model_are_said_not_to_be_examined():
    found, remarks = names({"ema": STATE, "model": dict(STATE), "best": [ONE]})
    assert found == ["a.bias", "a.weight"]
    assert remarks == ["the tensors under 'model' were examined, not those under 'ema', 'best'"]


def test_the_same_dict_in_two_places_is_found_in_both():
    assert names({"ema": STATE, "model": STATE})[0] == ["a.bias", "a.weight"]


def test_parts_of_a_model_are_put_together_under_their_names():
    assert names({"backbone": STATE, "head": {"w": ONE}})[0] == [
        *("backbone.a.bias", "backbone.a.weight", "head.w")
    ]


def test_a_list_of_tensors_is_numbered():
    assert names([ONE, {"w": ONE}])[0] == ["0", "1.w"]


def test_two_models_are_refused_and_named():
    with pytest.raises(SuspectFileError, match=r"several models \('model', 'net'\)"):
        names({"model": STATE, "net": dict(STATE)})


@pytest.mark.parametrize("tree", [None, 3, {}, [], {"a": "text"}, Foreign("x"), {"a": {"b": []}}])
def test_nothing_is_refused(tree):
    with pytest.raises(SuspectFileError, match="no tensor"):
        names(tree)


def test_values_that_hold_themselves_end():
    tree: dict[str, object] = {"w": ONE}
    tree["self"] = tree
    assert names(tree)[0] == ["w"]


def test_a_value_held_a_million_times_is_looked_at_once():
    tree: list[object] = []
    for _ in range(90):
        tree = [tree] * 1000
    with pytest.raises(SuspectFileError, match="no tensor"):
        names(tree)


def test_tensors_that_multiply_are_refused():
    tree: object = {"w": ONE}
    for _ in range(20):
        tree = {"x": tree, "y": tree}
    with pytest.raises(SuspectFileError, match="more than 20,000"):
        names(tree)


def test_deep_trees_and_long_names_are_refused():
    tree: object = {"w": ONE}
    for _ in range(200):
        tree = {"x": tree}
    with pytest.raises(SuspectFileError, match="too deeply"):
        names(tree)
    with pytest.raises(SuspectFileError, match="1,001 characters"):
        names({"x" * 1001: ONE})


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(SuspectFileError, match=r"two tensors called 'a\.b'"):
        names({"a": {"b": ONE}, "a.b": ONE, "c": {"d": ONE}})
