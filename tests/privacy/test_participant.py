"""A participant trains only with the partition and the front that were promised."""

import pytest
import torch

from smdl_flower import config, data, models
from smdl_flower.errors import ConfigError, PrivacyError
from smdl_flower.models import ModelSpec
from smdl_flower.privacy import participant
from smdl_flower.privacy.partition import bring_public_weights, partition
from smdl_flower.representation import Features
from smdl_flower.weights import digest, write

DEFAULTS = config.load_defaults(config.example_app_dir()) | {
    "data": "digits",
    "privacy.policy": "public-front",
}


def run_of(**changes):
    return config.parse(DEFAULTS | {k.replace("_", "-"): v for k, v in changes.items()})


def received(run, seed=None):
    shard = data.load_shard(run.data, participant=0, seed=7).take(40)
    spec = ModelSpec.for_images(run.model, shard.pixels, shard.classes)
    return models.build(spec, seed=run.seed if seed is None else seed), shard


@pytest.mark.parametrize("name", ["cnn", "scatter-linear"])
def test_an_honest_model_is_frozen_and_its_guarded_part_trained(name):
    run = run_of(model=name)
    model, shard = received(run)
    split = participant.prepare(run, model, shard, partition(run.privacy, model).sha256())
    part, examples = participant.what_is_trained(run, split, model, shard)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(
        split.select(models.to_weights(model))
    )
    assert isinstance(examples, Features) == (name == "scatter-linear")
    assert part(examples.inputs(slice(0, 2))).shape == (2, 10)


def test_random_changes_of_images_rule_out_kept_features():
    run = run_of(model="scatter-linear", augment="shift")
    model, shard = received(run)
    split = participant.prepare(run, model, shard, partition(run.privacy, model).sha256())
    assert participant.what_is_trained(run, split, model, shard) == (model, shard)


def test_another_commitment_is_refused():
    run = run_of(model="cnn")
    model, shard = received(run)
    with pytest.raises(PrivacyError, match="nothing was trained"):
        participant.prepare(run, model, shard, "0" * 64)


def test_a_front_of_another_seed_is_refused_although_the_server_committed_to_it():
    run = run_of(model="cnn")
    model, shard = received(run, seed=run.seed + 1)
    with pytest.raises(PrivacyError, match="PUBLIC tensors are not those"):
        participant.prepare(run, model, shard, partition(run.privacy, model).sha256())


def test_a_changed_projection_is_refused_although_the_server_committed_to_it():
    run = run_of(model="scatter-linear")
    model, shard = received(run)
    with torch.no_grad():
        model.front.projection.weight[0, 0] += 0.01
    with pytest.raises(PrivacyError, match="PUBLIC tensors are not those"):
        participant.prepare(run, model, shard, partition(run.privacy, model).sha256())


class TestWeightsThatWereBrought:
    @pytest.fixture
    def brought(self, tmp_path):
        run = run_of(model="cnn")
        other, shard = received(run, seed=99)
        values = models.to_weights(other)
        front = {n: a for n, a in values.items() if n.startswith("features.")}
        path = tmp_path / "front.safetensors"
        write(path, front)
        keys = {"privacy.public-weights": str(path), "privacy.public-weights-sha256": digest(front)}
        return keys, front, shard

    def test_they_become_the_front_and_are_accepted(self, brought):
        keys, front, shard = brought
        run = config.parse(DEFAULTS | {"model": "cnn"} | keys)
        fresh, _ = received(run)
        values = bring_public_weights(run.privacy, fresh)
        for name, array in front.items():
            assert (values[name] == array).all()
        models.load_weights(fresh, values)
        participant.prepare(run, fresh, shard, partition(run.privacy, fresh).sha256())

    def test_another_front_in_their_place_is_refused(self, brought):
        keys, _, shard = brought
        run = config.parse(DEFAULTS | {"model": "cnn"} | keys)
        fresh, _ = received(run)
        with pytest.raises(PrivacyError, match="PUBLIC tensors are not those"):
            participant.prepare(run, fresh, shard, partition(run.privacy, fresh).sha256())

    def test_a_file_with_another_digest_is_refused(self, brought):
        keys, _, _ = brought
        keys["privacy.public-weights-sha256"] = "0" * 64
        run = config.parse(DEFAULTS | {"model": "cnn"} | keys)
        with pytest.raises(ConfigError, match="has digest"):
            bring_public_weights(run.privacy, received(run)[0])

    def test_a_file_without_the_front_is_refused(self, brought, tmp_path):
        keys, front, _ = brought
        write(tmp_path / "part.safetensors", {"features.0.weight": front["features.0.weight"]})
        keys["privacy.public-weights"] = str(tmp_path / "part.safetensors")
        run = config.parse(DEFAULTS | {"model": "cnn"} | keys)
        with pytest.raises(ConfigError, match=r"has no features\.0\.bias"):
            bring_public_weights(run.privacy, received(run)[0])

    def test_a_path_without_a_digest_is_refused(self):
        with pytest.raises(ConfigError, match="public-weights-sha256"):
            config.parse(DEFAULTS | {"privacy.public-weights": "front.safetensors"})

    def test_they_need_the_policy(self, brought):
        keys, _, _ = brought
        with pytest.raises(ConfigError, match="public-front"):
            config.parse(DEFAULTS | keys | {"privacy.policy": "full"})
