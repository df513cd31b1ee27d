"""Every tensor of a model has one label, PUBLIC ones are checked, and nothing else leaves."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smdl_flower import config, models, weights
from smdl_flower.errors import ConfigError, PrivacyError
from smdl_flower.models import ModelSpec
from smdl_flower.privacy.partition import (
    Label,
    LabelledTensor,
    PrivacyPartition,
    partition,
    require_same_public,
)

DEFAULTS = config.load_defaults(config.example_app_dir())
names = st.sets(st.text(max_size=8), max_size=6)


def settings(**values):
    return config.parse(DEFAULTS | {f"privacy.{k}": v for k, v in values.items()}).privacy


def values_of(labelled):
    return {name: np.full((2, 2), i, np.float32) for i, name in enumerate(sorted(labelled))}


@given(guarded=names, public=names, outside=names)
def test_every_tensor_has_one_label_and_only_guarded_ones_leave(guarded, public, outside):
    public = public - guarded
    values = values_of(guarded | public)
    split = PrivacyPartition.label(values, public=public)
    labelled = [name for label in Label for name in split.names(label)]
    assert sorted(labelled) == sorted(values)
    held = dict.fromkeys(guarded | public | outside, "x")
    assert set(split.select(held)) == guarded


@given(guarded=names, public=names)
def test_json_reads_back_as_the_same_partition_with_the_same_commitment(guarded, public):
    values = values_of(guarded | public)
    split = PrivacyPartition.label(values, public=public)
    read = PrivacyPartition.from_json(json.loads(json.dumps(split.to_json())))
    assert read == split
    assert read.sha256() == split.sha256()


def test_the_commitment_is_that_of_the_documented_json():
    split = PrivacyPartition.label({"a": np.ones(3, np.float32)}, public={"a"})
    digest = weights.digest({"a": np.ones(3, np.float32)})
    document = (
        '{"format":"smdl-partition/1","tensors":[{"label":"public","name":"a","sha256":"'
        + digest
        + '","shape":[3],"substitute":""}]}'
    )
    assert split.sha256() == hashlib.sha256(document.encode()).hexdigest()


def test_the_commitment_tells_labels_shapes_and_public_values_apart_but_not_guarded_values():
    one, other = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    commitments = [
        PrivacyPartition.label({"a": one, "b": one}, public={"a"}).sha256(),
        PrivacyPartition.label({"a": one, "b": one}, public={"b"}).sha256(),
        PrivacyPartition.label({"a": other, "b": one}, public={"a"}).sha256(),
        PrivacyPartition.label({"a": one, "b": one.T}, public={"a"}).sha256(),
        PrivacyPartition.label({"a": one, "b": one, "c": one}, public={"a"}).sha256(),
    ]
    assert len(set(commitments)) == len(commitments)
    same = PrivacyPartition.label({"a": one, "b": other}, public={"a"}).sha256()
    assert same == commitments[0]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "text",
        {"format": "smdl-partition/2", "tensors": []},
        {"format": "smdl-partition/1"},
        {"format": "smdl-partition/1", "tensors": [{"name": "a", "label": "open", "shape": [1]}]},
        {"format": "smdl-partition/1", "tensors": [{"name": "a", "label": "guarded"}]},
        {"format": "smdl-partition/1", "tensors": [], "more": 1},
        {
            "format": "smdl-partition/1",
            "tensors": [{"name": "a", "label": "guarded", "shape": [1], "open": True}],
        },
    ],
)
def test_a_document_that_is_no_partition_is_refused(document):
    with pytest.raises(PrivacyError, match="not a privacy partition"):
        PrivacyPartition.from_json(document)


def test_a_partition_that_breaks_its_own_rules_cannot_be_made():
    guarded = LabelledTensor("a", Label.GUARDED, (1,))
    for wrong in (
        (guarded, guarded),
        (LabelledTensor("b", Label.GUARDED, (1,)), guarded),
        (LabelledTensor("a", Label.PUBLIC, (1,)),),
        (LabelledTensor("a", Label.GUARDED, (1,), sha256="0" * 64),),
        (LabelledTensor("a", Label.GUARDED, (1,), substitute="a"),),
    ):
        with pytest.raises(PrivacyError):
            PrivacyPartition(wrong)


def test_a_name_that_is_no_tensor_or_has_two_labels_is_refused():
    values = values_of({"a", "b"})
    with pytest.raises(PrivacyError, match="c"):
        PrivacyPartition.label(values, public={"c"})
    with pytest.raises(PrivacyError, match="a"):
        PrivacyPartition.label(values, public={"a"}, local={"a": "b"})


class TestLocal:
    """The experimental label: never uploaded, released as a PUBLIC tensor of the same shape."""

    VALUES = values_of({"front", "head", "norm"})

    def test_it_neither_leaves_nor_is_released(self):
        split = PrivacyPartition.label(self.VALUES, public={"front"}, local={"norm": "front"})
        assert split.names(Label.LOCAL) == ("norm",)
        assert set(split.select(self.VALUES)) == {"head"}
        released = split.join({"head": self.VALUES["head"]}, self.VALUES)
        np.testing.assert_array_equal(released["norm"], self.VALUES["front"])
        np.testing.assert_array_equal(released["head"], self.VALUES["head"])

    @pytest.mark.parametrize("substitute", ["", "head", "norm", "nothing"])
    def test_it_must_name_a_public_substitute(self, substitute):
        with pytest.raises(PrivacyError, match="PUBLIC substitute"):
            PrivacyPartition.label(self.VALUES, public={"front"}, local={"norm": substitute})

    def test_its_substitute_must_have_its_shape(self):
        values = {**self.VALUES, "norm": np.ones(3, np.float32)}
        with pytest.raises(PrivacyError, match="of its shape"):
            PrivacyPartition.label(values, public={"front"}, local={"norm": "front"})


def test_a_model_that_lacks_a_tensor_is_refused():
    split = PrivacyPartition.label(values_of({"a", "b"}), public=set())
    with pytest.raises(PrivacyError, match="lacks tensors"):
        split.select({"a": 1})


def test_changed_public_values_are_noticed_and_changed_guarded_ones_expected():
    values = values_of({"front", "head"})
    split = PrivacyPartition.label(values, public={"front"})
    split.verify({**values, "head": values["head"] + 1})
    with pytest.raises(PrivacyError, match="PUBLIC tensor front"):
        split.verify({**values, "front": np.nextafter(values["front"], np.float32(9))})
    with pytest.raises(PrivacyError, match="other tensors"):
        split.verify({**values, "more": values["head"]})
    with pytest.raises(PrivacyError, match="other tensors"):
        split.verify({**values, "head": values["head"].ravel()})


def test_join_puts_public_and_guarded_tensors_together():
    values = values_of({"front", "head"})
    split = PrivacyPartition.label(values, public={"front"})
    joined = split.join({"head": values["head"] + 5}, values)
    np.testing.assert_array_equal(joined["front"], values["front"])
    np.testing.assert_array_equal(joined["head"], values["head"] + 5)


class TestOfAModel:
    def test_the_policy_full_guards_every_tensor(self):
        model = models.build(ModelSpec("resnet8", 1, 10, 8), seed=0)
        split = partition(settings(), model)
        assert split.names(Label.GUARDED) == tuple(sorted(model.state_dict()))

    @pytest.mark.parametrize("name", ["cnn", "scatter-linear"])
    def test_public_front_freezes_the_front_and_trains_the_rest(self, name):
        model = models.build(ModelSpec(name, 1, 10, 8), seed=0)
        split = partition(settings(policy="public-front"), model)
        split.freeze(model)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained == set(split.names(Label.GUARDED))
        assert all(n.startswith(models.front_of(model)) for n in split.names(Label.PUBLIC))
        assert trained
        assert split.names(Label.PUBLIC)

    def test_a_model_without_a_front_is_refused(self):
        model = models.build(ModelSpec("resnet8", 1, 10, 8), seed=0)
        with pytest.raises(ConfigError, match="needs a model with a front"):
            partition(settings(policy="public-front"), model)

    def test_state_outside_of_the_state_dict_is_refused(self):
        class Hidden(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(2, 2)
                self.register_buffer("seen", torch.zeros(1), persistent=False)

        with pytest.raises(PrivacyError, match="seen"):
            partition(settings(), Hidden())


class TestPublicTensorsAreThosePromised:
    def build(self, seed, **values):
        model = models.build(ModelSpec("cnn", 1, 10, 8), seed=seed)
        chosen = settings(policy="public-front", **values)
        return chosen, partition(chosen, model), models.to_weights(model)

    def test_the_same_front_built_here_is_accepted_up_to_rounding(self):
        chosen, split, received = self.build(3)
        rounded = {n: a * np.float32(1 + 1e-6) for n, a in received.items()}
        require_same_public(chosen, split, received, rounded)

    def test_another_front_is_refused(self):
        chosen, split, received = self.build(3)
        _, _, own = self.build(4)
        with pytest.raises(PrivacyError, match="do not train"):
            require_same_public(chosen, split, received, own)

    def test_a_front_that_was_brought_is_compared_with_its_digest(self):
        _, split, received = self.build(3)
        public = {n: received[n] for n in split.names(Label.PUBLIC)}
        brought = {
            "public-weights": "front.safetensors",
            "public-weights-sha256": weights.digest(public),
        }
        chosen, split, received = self.build(3, **brought)
        require_same_public(chosen, split, received, {})
        received["features.0.weight"][0, 0, 0, 0] += 1e-6
        with pytest.raises(PrivacyError, match="do not train"):
            require_same_public(chosen, split, received, {})
