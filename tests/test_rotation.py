"""After a rotation old copies are still traced, new ones have the new key, and every link holds."""

import base64
import shutil
from pathlib import Path

import pytest

from smdl_flower import (
    commitments,
    evidence_package,
    files,
    issuing,
    judging,
    keyfile,
    models,
    rotation,
    verifying,
    weights,
)
from smdl_flower.blackbox.querylog import Subject, opened
from smdl_flower.config import FingerprintConfig
from smdl_flower.errors import ConfigError, HomeError, IntegrityError, SmdlError
from smdl_flower.fingerprint import carriers, extraction
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.flower.marking import OwnerMarker
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.judging import Trust
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

UNCHECKED = FidelityGate(images=None, max_accuracy_drop=0.0)
WORDS = "a long passphrase"


def issue(
    home: OwnerHome, spec: ModelSpec, seed: int, config: FingerprintConfig, folder: Path
) -> dict[str, Path]:
    """Copies of a new base model, for two customers."""
    base = models.to_weights(models.build(spec, seed=seed))
    campaign = issuing.open_campaign(home, spec, base, config, UNCHECKED)
    customers = home.registry.customers()[:2]
    results = list(issuing.issue(home, campaign, customers, folder))
    return {result.customer: result.path for result in results if result.path}


def disclosed(home: OwnerHome, suspect: Path, folder: Path) -> Path:
    verdict = verifying.verify(home, suspect)
    evidence_package.require_disclosable(home, verdict)
    files.write_json(folder / "verdict.json", verdict.to_json())
    evidence_package.write(home, verdict, folder)
    return folder


@pytest.fixture(scope="module")
def rotated(
    issued_home: OwnerHome,
    copy_paths: dict[str, Path],
    fingerprint_config: FingerprintConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[OwnerHome, dict[str, Path]]:
    """A home that was rotated after the copies of one base model, and those of another since."""
    assert copy_paths
    folder = tmp_path_factory.mktemp("rotated")
    shutil.copytree(issued_home.path, folder / "home")
    home = rotation.rotate(folder / "home", None).home
    spec = ModelSpec("cnn", channels=1, classes=4, image_size=8)
    return home, issue(home, spec, 5, fingerprint_config, folder / "copies")


def test_copies_of_both_keys_are_traced_and_all_words_share_the_bound(
    rotated: tuple[OwnerHome, dict[str, Path]], copy_paths: dict[str, Path]
) -> None:
    home, new_copies = rotated
    assert len(home.keys) == 2
    for customer, path in (
        ("clinic-a", copy_paths["clinic-a"]),
        ("clinic-b", new_copies["clinic-b"]),
    ):
        verdict = verifying.verify(home, path)
        assert [a.customer for a in verdict.accused] == [customer]
        assert verdict.customers == 8 + 2
    assert {home.registry.key_of(model_id) for model_id in home.registry.models()} == {0, 1}


def test_the_new_base_model_has_nothing_of_the_old_key(
    rotated: tuple[OwnerHome, dict[str, Path]],
) -> None:
    home, new_copies = rotated
    assert home.key != home.keys[0]
    (new,) = [m for m in home.base_models() if home.registry.key_of(m.model_id) == 1]
    assert home.campaign(new) == home.keys[1].campaign(new.digest)
    assert home.campaign(new) != home.keys[0].campaign(new.digest)
    suspect = weights.read(new_copies["clinic-a"]).weights
    reading = extraction.read(new.mark(home.keys[1]), suspect)
    wrong, right = (
        carriers.score(key.campaign(new.digest).customer("clinic-a"), reading.direction)
        for key in home.keys
    )
    assert right > 10
    assert abs(wrong) < 5


def test_more_customers_of_an_old_base_model_get_copies_under_its_key(
    issued_home: OwnerHome,
    copy_paths: dict[str, Path],
    base: Weights,
    spec: ModelSpec,
    fingerprint_config: FingerprintConfig,
    home_copy: OwnerHome,
    tmp_path: Path,
) -> None:
    home = rotation.rotate(home_copy.path, None).home
    home.registry.add_customers(["latecomer"])
    campaign = issuing.open_campaign(home, spec, base, fingerprint_config, UNCHECKED)
    late, again = issuing.issue(home, campaign, ["latecomer", "clinic-a"], tmp_path / "late")
    assert again.sha256 == weights.digest(weights.read(copy_paths["clinic-a"]).weights)
    assert late.path
    verdict = verifying.verify(home, late.path)
    assert [a.customer for a in verdict.accused] == ["latecomer"]
    assert issued_home.keys == home.keys[:1]


# ------------------------------------------------------------------------------- the chain of keys


def test_the_old_key_signs_that_the_new_one_takes_over(
    rotated: tuple[OwnerHome, dict[str, Path]],
) -> None:
    home, _ = rotated
    owner, first, handover, second = commitments.of_home(home)
    old, new = (key.signing_key().public for key in home.keys)
    assert [c.signer for c in (owner, first, handover, second)] == [old, old, old, new]
    assert handover.kind == commitments.ROTATION_KIND
    assert handover.predicate["public_key"] == new
    assert handover.subjects == {"key": home.key.commitment()}
    assert home.registry.commitments() == tuple(c.digest for c in (owner, first, handover, second))


def test_evidence_of_both_keys_is_judged_by_whoever_knows_either(
    rotated: tuple[OwnerHome, dict[str, Path]], copy_paths: dict[str, Path], tmp_path: Path
) -> None:
    home, new_copies = rotated
    for name, suspect in (("old", copy_paths["clinic-c"]), ("new", new_copies["clinic-a"])):
        folder = disclosed(home, suspect, tmp_path / name)
        for key in (None, *(k.signing_key().public for k in home.keys)):
            judgement = judging.judge(folder, suspect, trust=Trust(key))
            assert judgement.valid
            assert len(judgement.earlier_key_ids) == 1
        with pytest.raises(IntegrityError, match="not signed by key"):
            judging.judge(folder, suspect, trust=Trust(OwnerKey(bytes(32)).signing_key().public))


def test_a_key_that_the_old_one_did_not_name_signs_nothing(
    rotated: tuple[OwnerHome, dict[str, Path]],
) -> None:
    home, _ = rotated
    thief = OwnerKey(b"thief".ljust(32))
    envelopes = [c.envelope for c in commitments.of_home(home)]
    old = home.keys[0].signing_key()
    before = commitments.of_home(home)[1].digest
    predicate = {"previous": before, "public_key": thief.signing_key().public}
    own_word = thief.signing_key().sign({}, commitments.ROTATION_KIND, predicate)
    for wrong in (
        [*envelopes[:2], own_word],
        [*envelopes[:2], envelopes[3]],  # the new key without its introduction
        [*envelopes[:3], old.sign({}, commitments.CAMPAIGN_KIND, {"previous": "?"})],
        [own_word],
    ):
        with pytest.raises(IntegrityError):
            commitments.check_chain(wrong, old.public)
    for nonsense in ("", "ab", "zz" * 32, None, 7, thief.signing_key().public.upper()):
        bad = old.sign({}, commitments.ROTATION_KIND, {"previous": before, "public_key": nonsense})
        with pytest.raises(IntegrityError, match="no signing key"):
            commitments.check_chain([*envelopes[:2], bad], old.public)


def test_who_has_the_old_key_alone_cannot_write_into_the_registry(home_copy: OwnerHome) -> None:
    old = OwnerHome.open(home_copy.path)
    rotation.rotate(home_copy.path, None)
    with pytest.raises(IntegrityError, match="newer master key"):
        old.registry.add_customers(["mallory"])
    with pytest.raises(IntegrityError, match="newer master key"):
        old.registry.customers()
    assert "mallory" not in OwnerHome.open(home_copy.path).registry.customers()


def test_another_new_key_than_was_announced_is_noticed(home_copy: OwnerHome) -> None:
    home = rotation.rotate(home_copy.path, None).home
    keyfile.replace(home.path / "master.key", [home.keys[0], OwnerKey.generate()], None)
    with pytest.raises(IntegrityError, match="not this owner's"):
        OwnerHome.open(home.path).registry.customers()


def test_a_log_cut_off_before_the_rotation_is_noticed(home_copy: OwnerHome, tmp_path: Path) -> None:
    """By whoever has the old key and the database, but not the head file."""
    shutil.copy(home_copy.path / "registry.db", tmp_path / "before.db")
    home = rotation.rotate(home_copy.path, None).home
    home.registry.add_customers(["newcomer"])
    shutil.copy(tmp_path / "before.db", home.path / "registry.db")
    with pytest.raises(IntegrityError):
        OwnerHome.open(home.path).registry.customers()


# ------------------------------------------------------------------------------------ interruptions


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("step", ["keyfile.replace", "publish_rotation", "record_rotation"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_rotation_that_was_interrupted_is_finished_by_the_next(
    home_copy: OwnerHome,
    copy_paths: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    moment: str,
) -> None:
    where, name = {
        "keyfile.replace": (keyfile, "replace"),
        "publish_rotation": (commitments, "publish_rotation"),
        "record_rotation": (type(home_copy.registry), "record_rotation"),
    }[step]
    real = getattr(where, name)

    def cut(*arguments):
        if moment == "after":
            real(*arguments)
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(where, name, cut)
        with pytest.raises(PowerCutError):
            rotation.rotate(home_copy.path, None)
    left = OwnerHome.open(home_copy.path)
    left.registry.add_customers(["meanwhile"])
    verdict = verifying.verify(left, copy_paths["clinic-a"])
    assert [a.customer for a in verdict.accused] == ["clinic-a"]
    begun = step != "keyfile.replace" or moment == "after"
    done = (step, moment) == ("record_rotation", "after")
    assert rotation.is_finished(left) == (not begun or done)
    after = rotation.rotate(home_copy.path, None).home
    assert len(after.keys) == 2 + done
    if begun:
        assert after.keys[: len(left.keys)] == left.keys
    assert rotation.is_finished(after)
    assert len(commitments.of_home(after)) == 2 + len(after.keys) - 1


def test_a_home_that_is_damaged_is_not_rotated(home_copy: OwnerHome) -> None:
    before = (home_copy.path / "master.key").read_bytes()
    (commitments.directory(home_copy) / "000002.json").unlink()
    with pytest.raises(IntegrityError, match="statements that the registry says"):
        rotation.rotate(home_copy.path, None)
    assert (home_copy.path / "master.key").read_bytes() == before


# ------------------------------------------------------------------- what else hangs on master keys


def test_logs_of_questions_stay_readable(home_copy: OwnerHome, tmp_path: Path) -> None:
    (model,) = home_copy.base_models()
    subject = Subject(model.model_id, 1, "", 10, "url", "")
    with opened(tmp_path, home_copy.key_of(model.model_id), subject) as log:
        first = log.begun
    home = rotation.rotate(home_copy.path, None).home
    with opened(tmp_path, home.key_of(model.model_id), subject) as log:
        assert log.begun == first
    with pytest.raises(SmdlError), opened(tmp_path, home.key, subject):
        pass


def test_models_of_training_are_traced_under_the_key_they_were_sent_with(
    home_copy: OwnerHome, spec: ModelSpec, base: Weights, tmp_path: Path
) -> None:
    """Two nodes are sent the same model, one before and one after the rotation."""
    sent = {}
    for node in (1, 2):
        home = OwnerHome.open(home_copy.path)
        marker = OwnerMarker(home, spec, "run", 0.1)
        sent[node] = marker.open(1, base, [node]).mark(node)
        marker.identify({node: f"institution-{node}"})
        rotation.rotate(home.path, None)
    home = OwnerHome.open(home_copy.path)
    assert [record.key for record in home.registry.broadcasts()] == [0, 1]
    assert home.registry.broadcast_words() == 2
    for node, model in sent.items():
        weights.write(tmp_path / f"{node}.safetensors", model)
        verdict = verifying.verify(home, tmp_path / f"{node}.safetensors")
        assert [p.participant for p in verdict.participants] == [f"institution-{node}"]


# ---------------------------------------------------------------------------------- the passphrase


@pytest.fixture
def _cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)


@pytest.mark.usefixtures("_cheap_scrypt")
def test_a_passphrase_is_set_changed_and_removed_with_all_keys(home_copy: OwnerHome) -> None:
    path = home_copy.path
    keys = rotation.rotate(path, None).home.keys
    rotation.change_passphrase(path, None, WORDS)
    assert OwnerHome.open(path, WORDS).keys == keys
    with pytest.raises(HomeError, match="encrypted"):
        OwnerHome.open(path)
    content = (path / "master.key").read_bytes()
    forms = [form for key in keys for form in (key.secret, base64.b64encode(key.secret))]
    assert not any(form in content for form in forms)
    rotation.change_passphrase(path, WORDS, "another")
    with pytest.raises(HomeError, match="wrong passphrase"):
        OwnerHome.open(path, WORDS)
    keys = rotation.rotate(path, "another").home.keys
    assert len(keys) == 3
    rotation.change_passphrase(path, "another", None)
    assert OwnerHome.open(path).keys == keys
    assert (path / "master.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("_cheap_scrypt")
def test_a_wrong_or_empty_passphrase_changes_nothing(home_copy: OwnerHome) -> None:
    path = home_copy.path
    rotation.change_passphrase(path, None, WORDS)
    before = (path / "master.key").read_bytes()
    for old, new, error in (
        ("wrong", "x", HomeError),
        (None, "x", HomeError),
        (WORDS, "", ConfigError),
    ):
        with pytest.raises(error):
            rotation.change_passphrase(path, old, new)
    with pytest.raises(HomeError):
        rotation.rotate(path, "wrong")
    assert (path / "master.key").read_bytes() == before


@pytest.mark.usefixtures("_cheap_scrypt")
def test_the_old_key_file_stays_until_the_new_one_is_whole(
    home_copy: OwnerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home_copy.path
    before = (path / "master.key").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(PowerCutError))
        with pytest.raises(PowerCutError):
            rotation.change_passphrase(path, None, WORDS)
    assert (path / "master.key").read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(keyfile, "stretch", lambda *_: OwnerKey.generate().secret)  # a broken scrypt
        with pytest.raises(HomeError):
            rotation.change_passphrase(path, None, WORDS)
    assert (path / "master.key").read_bytes() == before


def test_too_many_keys_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    keys = [OwnerKey(bytes([n]) * 32) for n in range(keyfile.MOST_KEYS + 1)]
    keyfile.save(tmp_path / "master.key", keys[:-1], None)
    assert len(keyfile.load(tmp_path / "master.key", None)) == keyfile.MOST_KEYS
    with pytest.raises(ConfigError, match="at most 50"):
        keyfile.replace(tmp_path / "master.key", keys, None)
    assert len(keyfile.load(tmp_path / "master.key", None)) == keyfile.MOST_KEYS
