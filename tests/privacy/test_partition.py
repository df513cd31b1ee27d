"""Every tensor of a model is labelled, and nothing else leaves a participant."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower import config, models
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.privacy import partition
from smdl_flower.privacy.partition import Label, PrivacyPartition

PRIVACY = config.parse(config.load_defaults(config.example_app_dir())).privacy
names = st.sets(st.text(max_size=8), max_size=8)


def test_the_policy_full_guards_every_tensor_of_a_model_once() -> None:
    weights = models.to_weights(models.build(ModelSpec("resnet8", 1, 10, 8), seed=0))
    labelled = partition.partition(PRIVACY, weights).labels
    assert [name for name, _ in labelled] == sorted(weights)
    assert {label for _, label in labelled} == {Label.GUARDED}


@given(inside=names, outside=names)
def test_exactly_the_partitioned_tensors_leave(inside: set[str], outside: set[str]) -> None:
    tensors = {name: f"<{name}>" for name in inside | outside}
    before = dict(tensors)
    selected = PrivacyPartition.full(inside).select(tensors)
    assert selected == {name: f"<{name}>" for name in inside}
    assert tensors == before


@given(held=names, missing=st.sets(st.text(max_size=8), min_size=1, max_size=4))
def test_a_model_that_lacks_a_tensor_is_refused(held: set[str], missing: set[str]) -> None:
    chosen = PrivacyPartition.full(held | missing)
    with pytest.raises(ConfigError, match="lacks tensors of its privacy partition"):
        chosen.select(dict.fromkeys(held - missing, 0))


def test_the_commitment_is_that_of_the_documented_json_and_of_no_order() -> None:
    document = b'["smdl-privacy/1", [["a", "guarded"], ["b", "guarded"]]]'
    commitment = PrivacyPartition.full(["b", "a"]).sha256()
    assert commitment == hashlib.sha256(document).hexdigest()
    assert commitment == PrivacyPartition.full(["a", "b"]).sha256()


@given(one=names, other=names)
def test_different_partitions_have_different_commitments(one: set[str], other: set[str]) -> None:
    same = PrivacyPartition.full(one).sha256() == PrivacyPartition.full(other).sha256()
    assert same == (one == other)


def test_the_report_claims_no_privacy_and_commits_to_the_partition() -> None:
    weights = {"w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    chosen = partition.partition(PRIVACY, weights)
    document = json.loads(json.dumps(partition.report(PRIVACY, chosen)))
    assert document["epsilon"] is None
    assert "No DP claim" in document["claim"]
    assert (document["policy"], document["channel"]) == ("full", "clear")
    assert document["partition"] == {"b": "guarded", "w": "guarded"}
    rebuilt = PrivacyPartition(tuple((n, Label(v)) for n, v in document["partition"].items()))
    assert rebuilt.sha256() == document["partition_sha256"]


def test_a_partition_that_names_a_tensor_twice_is_refused() -> None:
    with pytest.raises(ConfigError):
        PrivacyPartition.full(["w", "w"])
