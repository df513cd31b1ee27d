"""``smdl bench --privacy``: the product's own channel and training, attacked and audited."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from smdl_flower import config
from smdl_flower.bench.privacy import attacks, auditing, participants, record
from smdl_flower.bench.privacy.scores import Row, Score
from smdl_flower.cli.main import run as smdl
from smdl_flower.config import RunConfig
from smdl_flower.errors import ConfigError
from smdl_flower.privacy.attacks.update import flat, gradient

DIGITS: dict[str, config.Scalar] = {
    "data": "digits",
    "model": "cnn",
    "num-participants": 2,
    "min-replies": 2,
    "num-server-rounds": 3,
    "batch-size": 16,
}
PRIVATE: dict[str, config.Scalar] = DIGITS | {
    "privacy.channel": "dp",
    "privacy.rng": "seeded",
    "privacy.shard-size": 500,
    "privacy.max-grad-norm": 0.5,
    "privacy.epsilon": 8.0,
    "momentum": 0.0,
    "weight-decay": 0.0,
}


def asked(changes: dict[str, config.Scalar]) -> RunConfig:
    return config.parse(config.load_defaults(config.example_app_dir()) | changes)


@pytest.fixture(scope="module")
def private() -> participants.Participants:
    return participants.load(asked(PRIVATE))


def no_progress() -> None:
    pass


def test_a_clear_run_sends_the_gradient_itself():
    who = participants.load(asked(DIGITS))
    assert participants.sent(who) is gradient
    assert [attack.name for attack in attacks.attacks(who)] == [
        "matching",
        "inversion",
        "membership",
    ]


def test_a_private_run_sends_clipped_gradients_with_its_noise(private):
    """Noise of sigma C in each of d directions: the squared length is d (sigma C)^2, +- 4 SE."""
    release = participants.sent(private)
    seen = flat(release(private.head, private.inputs[:1], private.images.labels[:1])) / 1e-3
    asked_for = participants.mechanism(private.run, 1)
    deviation = asked_for.steps.sigma * asked_for.max_grad_norm
    error = 4 * (2 / len(seen)) ** 0.5 + 1 / (deviation**2 * len(seen))
    assert float(seen.square().mean()) / deviation**2 == pytest.approx(1.0, abs=error + 1e-3)


def test_matching_works_in_the_clear_and_not_on_what_a_private_run_sends(private, monkeypatch):
    monkeypatch.setattr(attacks, "CANDIDATES", 100)
    monkeypatch.setattr(attacks, "MATCHED", 20)
    row = attacks.match(private, no_progress)
    assert row.works
    assert row.control.right == 20
    assert row.protected.right is not None
    assert row.protected.right <= 3  # binomial(20, 1/100) exceeds 3 with probability 4e-5
    assert row.verdict() == "no better than a guess"


def test_the_audit_passes_the_products_training_and_catches_half_of_its_noise(private):
    found = auditing.audited(private, canaries=1000)
    assert found.honest.failures == ()
    assert found.works
    assert any("noise of excluded" in failure for failure in found.planted.failures)


def test_federated_training_learns(private):
    who = participants.load(asked(DIGITS))
    count = 600
    model = participants.federated(who)(who.inputs[:count], who.images.labels[:count], 0)
    with torch.no_grad():
        right = model(who.inputs[:count]).argmax(1) == who.images.labels[:count]
    assert float(right.float().mean()) > 0.3
    again = participants.federated(who)(who.inputs[:count], who.images.labels[:count], 0)
    assert torch.equal(again.head.bias, model.head.bias)  # type: ignore[union-attr, arg-type]


def test_an_attack_whose_control_fails_says_nothing():
    weak, none = Score.of_count(10, 100), Score.of_count(0, 100)
    row = Row("matching", "which", weak, 0.95, none, 0.01)
    assert not row.works
    assert row.verdict() == "attack not working, says nothing"
    strong = dataclasses.replace(row, control=Score.of_count(100, 100))
    assert strong.verdict() == "no better than a guess"
    assert dataclasses.replace(strong, protected=weak).verdict() == "better than a guess"


def test_the_document_is_json_and_names_what_was_measured(private):
    row = Row("matching", "which", Score.of_count(5, 5), 0.9, Score.of_count(0, 5), 0.01)
    found = auditing.audited(private, canaries=100)
    document = json.loads(json.dumps(record.document(private, [row], found), allow_nan=False))
    assert document["format"] == record.FORMAT
    assert document["epsilon"] == 8.0
    assert document["attacks"][0]["verdict"] == "no better than a guess"
    assert len(document["audit"]["checks"]) == 4


def test_a_target_is_a_scenario_or_a_run(tmp_path: Path):
    app = config.example_app_dir()
    assert participants.read_target(app / "scenarios" / "quickstart.toml").scenario == "quickstart"
    flat_config = config.load_defaults(app) | {"scenario": "earlier"}
    (tmp_path / "resolved.json").write_text(json.dumps({"config": flat_config}))
    assert participants.read_target(tmp_path).scenario == "earlier"
    with pytest.raises(ConfigError, match="missing or unreadable"):
        participants.read_target(tmp_path / "nowhere")


def test_images_come_in_an_order_of_their_own():
    who = participants.load(asked(DIGITS))
    assert len(np.unique(who.images.labels[:50])) == 10


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A private run on digits, as far as the bench looks at it."""
    flat_config = config.load_defaults(config.example_app_dir()) | PRIVATE
    (tmp_path / "resolved.json").write_text(json.dumps({"config": flat_config}))
    return tmp_path


def test_the_command_writes_a_table_and_a_document(run_folder, monkeypatch, capsys):
    chosen = [attacks.Attack("matching", attacks.match, 2)]
    monkeypatch.setattr(attacks, "attacks", lambda _: chosen)
    monkeypatch.setattr(attacks, "MATCHED", 10)
    assert smdl(["bench", "--privacy", str(run_folder)]) == 0
    printed = capsys.readouterr().out
    assert "10 of 10" in printed
    assert "Audit passed" in printed
    document = json.loads((run_folder / record.NAME).read_text())
    assert document["audit"]["passed"]
    assert [row["attack"] for row in document["attacks"]] == ["matching"]


def test_targets_that_would_overwrite_each_other_are_refused(run_folder, capsys):
    assert smdl(["bench", "--privacy", str(run_folder), str(run_folder)]) == 2
    assert "written to one file" in capsys.readouterr().err
    assert smdl(["bench", str(run_folder), str(run_folder)]) == 2
    assert "without --privacy give one" in capsys.readouterr().err
