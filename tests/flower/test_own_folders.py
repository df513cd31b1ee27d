"""Participants train on folders of their own, which the run config does not name."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import client_app.app
import server_app.app
from smdl_flower import config, data
from smdl_flower.config import DataConfig
from smdl_flower.errors import ConfigError, DataError, FederationError
from smdl_flower.flower import inline, owner, records
from smdl_flower.flower.run_folder import RUN_DIRECTORY_VARIABLE
from smdl_flower.own_images import terms_of
from smdl_flower.privacy.ledger import Ledger
from smdl_flower.privacy.private_round import LEDGER_VARIABLE, OWN_LEDGER
from tests.flower.offline import OFFLINE

FLAT = config.load_defaults(config.example_app_dir()) | {
    "data": "imagefolder",
    "num-participants": 3,
    "num-server-rounds": 2,
    "local-epochs": 2,
    "learning-rate": 0.1,
    **OFFLINE,
    "fingerprint.code-length": 64,
}
NAMES = tuple(f"digit-{i}" for i in range(10))


@pytest.fixture(scope="module")
def digits():
    """All digits: training images of three institutions, and test images."""
    split = data.load_split(DataConfig.of_one_party("digits", "", 0))
    train = split.train.load(np.arange(len(split.train.labels)))
    return train, split.test.load(np.arange(len(split.test.labels)))


def write(root, images, indices, mode="L"):
    for i in indices:
        place = root / NAMES[int(images.labels[i])]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.pixels[i, 0].numpy()).convert(mode).save(place / f"{int(i)}.png")
    return root


@pytest.fixture
def place(digits, tmp_path, monkeypatch):
    """Three institutions' folders; the second has no image of two classes, the third colour."""
    train, test = digits
    parts = [torch.arange(len(train))[i::3] for i in range(3)]
    parts[1] = parts[1][train.labels[parts[1]] < 8]
    for i, (indices, mode) in enumerate(zip(parts, ("L", "L", "RGB"), strict=True)):
        write(tmp_path / f"institution-{i}", train, indices, mode)
    write(tmp_path / "test", test, range(len(test)))
    monkeypatch.setenv(owner.DATA_VARIABLE, str(tmp_path / "test"))
    monkeypatch.setenv(owner.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv(RUN_DIRECTORY_VARIABLE, str(tmp_path / "run"))
    return tmp_path


def nodes(place):
    return [{"data-dir": str(place / f"institution-{i}")} for i in range(3)]


def simulate(flat, node_configs, client=client_app.app.app):
    inline.run(server_app.app.app, client, len(node_configs), flat, node_configs)


class Ears:
    """The client app, and what it was sent and answered."""

    def __init__(self):
        self.sent, self.replies = [], []

    def __call__(self, message, context):
        self.sent.append(message)
        reply = client_app.app.app(message, context)
        self.replies.append(reply)
        return reply


def test_three_institutions_train_on_their_own_folders(place):
    ears = Ears()
    simulate(FLAT | {"num-server-rounds": 4, "local-epochs": 4}, nodes(place), ears)
    lines = (place / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["replies"] == 3
    assert json.loads(lines[-1])["accuracy"] > 0.8
    told = records.terms_in(ears.sent[0].content.config_records[records.CONFIG])
    assert told.classes == NAMES
    assert (told.format.channels, told.format.size) == (1, 8)
    counts = [r.content.metric_records["metrics"]["num-examples"] for r in ears.replies[:3]]
    folders = [len(list((place / f"institution-{i}").rglob("*.png"))) for i in range(3)]
    assert sorted(counts) == sorted(folders)
    everything_sent = str([dict(m.content) for m in ears.sent]) + json.dumps(FLAT)
    assert str(place) not in everything_sent


def test_a_folder_wins_over_the_runs_own_source(place):
    """Test images and classes are the source's, training images the institution's."""
    for root in place.glob("institution-*"):
        for folder in root.iterdir():
            folder.rename(folder.with_name(folder.name.removeprefix("digit-")))
    ears = Ears()
    simulate(FLAT | {"data": "digits", "num-server-rounds": 1}, nodes(place), ears)
    counts = [reply.content.metric_records["metrics"]["num-examples"] for reply in ears.replies]
    assert sum(counts) == len(list(place.glob("institution-*/*/*.png")))


def test_an_institution_with_an_unknown_class_is_left_out_and_named_by_a_code(place, caplog):
    (place / "institution-2" / "miller").mkdir()
    ears = Ears()
    simulate(FLAT | {"num-server-rounds": 1}, nodes(place), ears)
    lines = (place / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["replies"] == 2
    (refusal,) = [reply for reply in ears.replies if reply.has_error()]
    assert refusal.error.reason == "data-classes"
    assert "'miller' is no class of this federation" in caplog.text  # at the institution


def test_below_the_minimum_the_run_stops_and_says_no_path(place):
    for i in (1, 2):
        (place / f"institution-{i}" / "digit-0" / "broken.png").write_bytes(b"x")
    with pytest.raises(FederationError, match=r"1 valid replies of 3.*data-unreadable") as caught:
        simulate(FLAT, nodes(place))
    outcome = (place / "run" / "run.json").read_text()
    for text in (str(caught.value), outcome):
        assert str(place) not in text.replace(str(place / "run"), "")
        assert "broken" not in text


def test_too_few_images_are_refused_by_the_runs_rule(place):
    flat = FLAT | {"min-images": 100_000, "num-server-rounds": 1}
    with pytest.raises(FederationError, match="data-too-few"):
        simulate(flat, nodes(place))


def test_a_participant_without_a_folder_reads_no_other(place):
    with pytest.raises(FederationError, match="error reply: data"):
        simulate(FLAT, [{}, {}, {}])


def test_institutions_can_evaluate_on_their_own_images(place):
    simulate(FLAT | {"fraction-evaluate": 1.0}, nodes(place))
    lines = (place / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["participants-eval-accuracy"] > 0.2


def test_the_owner_must_say_where_its_test_images_are(place, monkeypatch):
    monkeypatch.delenv(owner.DATA_VARIABLE)
    with pytest.raises(ConfigError, match="SMDL_DATA_DIR"):
        simulate(FLAT, nodes(place))


def test_the_owners_folder_is_used_whole(place):
    images = owner.test_images(config.parse(FLAT))
    assert len(images) == 357
    assert terms_of(images).classes == NAMES


@pytest.mark.parametrize(
    "change",
    [
        {records.CLASSES: []},
        {records.CLASSES: ["a", "a"]},
        {records.CLASSES: "a"},
        {records.CHANNELS: 2},
        {records.IMAGE_SIZE: 0},
        {records.IMAGE_SIZE: 100_000},
    ],
)
def test_terms_that_make_no_sense_are_refused(change, digits):
    from flwr.app import ConfigRecord  # noqa: PLC0415

    record = ConfigRecord()
    records.put_terms(record, terms_of(digits[1]))
    records.terms_in(record)
    for key, value in change.items():
        record[key] = value
    with pytest.raises(ConfigError, match="another version"):
        records.terms_in(record)


@pytest.mark.parametrize("number", ["0", True, -1, 1_000_000])
def test_a_participants_number_must_be_one(number, place, caplog):
    own = nodes(place)[0] | {"partition-id": number}
    with pytest.raises(FederationError, match="node 1: error reply: config"):
        simulate(FLAT | {"num-server-rounds": 1, "num-participants": 1, "min-replies": 1}, [own])
    assert f"partition-id is {number!r}" in caplog.text


def test_an_institutions_budget_is_one_whatever_number_or_path_it_gives(place, monkeypatch):
    """Renumbered, or its folder moved: the same images, the same budget."""
    monkeypatch.setenv(LEDGER_VARIABLE, str(place / "ledger"))
    private = FLAT | {
        **{"data": "digits", "model": "scatter-linear", "num-participants": 1, "min-replies": 1},
        **{"num-server-rounds": 1, "learning-rate": 10.0, "momentum": 0.0, "weight-decay": 0.0},
        **{"privacy.policy": "public-front", "privacy.channel": "dp", "privacy.shard-size": 400},
        **{"privacy.epsilon": 4.0, "privacy.spare-rounds": 0},
    }
    root = place / "institution-0"
    for folder in root.iterdir():
        folder.rename(folder.with_name(folder.name.removeprefix("digit-")))
    simulate(private, [{"data-dir": str(root)}])
    ledger = Ledger(place / "ledger" / OWN_LEDGER, cap=4.0, delta=1e-5)
    assert 3.0 < ledger.read().spent() <= 4.0
    moved = root.rename(place / "elsewhere")
    monkeypatch.setenv(RUN_DIRECTORY_VARIABLE, str(place / "again"))
    with pytest.raises(FederationError, match="error reply: budget"):
        simulate(private | {"seed": 8}, [{"data-dir": str(moved), "partition-id": 5}])


def test_the_control_dealt_images_have_a_budget_for_each_number(tmp_path):
    from smdl_flower.privacy.private_round import open_ledger  # noqa: PLC0415

    run = config.parse(FLAT | {"data": "digits"})
    names = {open_ledger(run, i, {"ledger-dir": str(tmp_path)}).name for i in range(3)}
    assert len(names) == 3


def test_a_source_that_nobody_named_is_refused_with_what_to_do():
    with pytest.raises(DataError, match="data-dir of its own"):
        data.load_split(config.parse(FLAT).data)
