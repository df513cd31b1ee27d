"""Issuing: a copy goes out only checked and recorded, and nothing goes out twice differently."""

import base64 as base64_codec
from pathlib import Path
from typing import Any

import pytest
import torch

from smdl_flower import commitments, files, issuing, models, weights
from smdl_flower.config import FingerprintConfig
from smdl_flower.data import Images
from smdl_flower.errors import CapacityError, ConfigError, OutputExistsError, SmdlError
from smdl_flower.fingerprint import codes
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import Campaign, FidelityGate, IssueResult
from smdl_flower.models import ModelSpec
from smdl_flower.registry import Registry
from smdl_flower.training import evaluate
from smdl_flower.weights import Weights

UNCHECKED = FidelityGate(images=None, max_accuracy_drop=0.0)


@pytest.fixture
def reopened(
    home_copy: OwnerHome, spec: ModelSpec, base: Weights, fingerprint_config: FingerprintConfig
) -> Campaign:
    """The campaign, opened again in a home of the test's own; eight copies are recorded."""
    return issuing.open_campaign(home_copy, spec, base, fingerprint_config, UNCHECKED)


@pytest.fixture(scope="session")
def disputed(spec: ModelSpec, base: Weights, copies: dict[str, Weights]) -> Images:
    """Images, labelled as the base model sees them, that clinic-a's copy sees otherwise."""
    pixels = torch.randint(
        0, 256, (500, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    # Random pixels all look alike to an untrained model: spread them from black to white.
    levels = torch.linspace(0, 1, 500)[:, None, None, None]
    pixels = (pixels * levels).to(torch.uint8)
    unlabelled = Images(pixels, torch.zeros(500, dtype=torch.int64), tuple("0123456789"))
    with torch.no_grad():
        labels, others = (
            models.from_weights(spec, w)(unlabelled.inputs()).argmax(1)
            for w in (base, copies["clinic-a"])
        )
    disagree = labels != others
    assert disagree.any()
    return Images(pixels[disagree], labels[disagree], unlabelled.classes)


# ------------------------------------------------------------------------------------- good copies


def test_every_copy_reads_back_whole_and_proves_its_customer(
    issue_results: dict[str, IssueResult], issued_home: OwnerHome
) -> None:
    assert tuple(issue_results) == issued_home.registry.customers()
    for result in issue_results.values():
        assert result.reason == ""
        assert result.matching_bits == 304
        # whitebox.md, section 3: 360 without alteration; half of it leaves no doubt.
        assert result.carrier_score > 180
        assert result.accuracy is None
        assert result.path is not None
        assert result.path.stat().st_mode & 0o777 == 0o600
        assert weights.digest(weights.read(result.path).weights) == result.sha256
    assert len({result.sha256 for result in issue_results.values()}) == len(issue_results)


def test_every_copy_is_recorded_with_its_digest(
    issue_results: dict[str, IssueResult], issued_home: OwnerHome, campaign: Campaign
) -> None:
    recorded = issued_home.registry.copies(campaign.model.model_id)
    assert {c.customer: c.weights_sha256 for c in recorded} == {
        name: result.sha256 for name, result in issue_results.items()
    }


def test_only_copies_are_left_in_the_directory(copy_paths: dict[str, Path]) -> None:
    directory = copy_paths["clinic-a"].parent
    assert {path.name for path in directory.iterdir()} == {f"{n}.safetensors" for n in copy_paths}


def test_a_copy_file_names_neither_customer_nor_key(
    copy_paths: dict[str, Path], issued_home: OwnerHome, campaign: Campaign, spec: ModelSpec
) -> None:
    campaign_key = campaign.model.key(issued_home.key)
    for name, path in copy_paths.items():
        content = path.read_bytes()
        assert name.encode() not in content
        assert campaign.model.model_id.encode() not in content
        for key in (issued_home.key, campaign_key, campaign_key.customer(name)):
            assert key.secret not in content
            assert key.secret.hex().encode() not in content
            assert base64_codec.b64encode(key.secret) not in content
        assert weights.read(path).metadata == spec.to_metadata()


def test_a_copy_keeps_the_unmarked_tensors_and_moves_every_marked_one(
    copies: dict[str, Weights], base: Weights
) -> None:
    for copy in copies.values():
        assert copy.keys() == base.keys()
        for name, array in base.items():
            assert (copy[name].tobytes() == array.tobytes()) == (array.ndim < 2)


def test_a_copy_is_recorded_before_it_appears(
    home_copy: OwnerHome, reopened: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_copy.registry.add_customers(["late"])
    events: list[str] = []
    record, path = Registry.record_copy, tmp_path / "out" / "late.safetensors"

    def spy(registry: Registry, model_id: str, customer: str, digest: str) -> object:
        events.append("there" if path.exists() else "not there")
        result = record(registry, model_id, customer, digest)
        events.append("there" if path.exists() else "not there")
        return result

    monkeypatch.setattr(Registry, "record_copy", spy)
    (result,) = issuing.issue(home_copy, reopened, ["late"], tmp_path / "out")
    assert events == ["not there", "not there"]
    assert result.path == path
    assert path.exists()


def test_issuing_again_elsewhere_gives_the_same_weights_and_no_new_record(
    home_copy: OwnerHome, reopened: Campaign, copy_paths: dict[str, Path], tmp_path: Path
) -> None:
    before = home_copy.registry.copies(reopened.model.model_id)
    results = list(issuing.issue(home_copy, reopened, ["clinic-a", "clinic-h"], tmp_path / "out"))
    for result in results:
        assert result.path is not None
        first, again = weights.read(copy_paths[result.customer]), weights.read(result.path)
        assert weights.digest(again.weights) == weights.digest(first.weights)
        assert again.metadata == first.metadata
    assert home_copy.registry.copies(reopened.model.model_id) == before


# ------------------------------------------------------------------------------------- refusals


def test_a_copy_that_loses_accuracy_is_not_issued_and_the_reason_is_told(
    home_copy: OwnerHome,
    spec: ModelSpec,
    base: Weights,
    fingerprint_config: FingerprintConfig,
    disputed: Images,
    tmp_path: Path,
) -> None:
    gate = FidelityGate(disputed, max_accuracy_drop=0.0)
    campaign = issuing.open_campaign(home_copy, spec, base, fingerprint_config, gate)
    assert campaign.base_accuracy == 1.0
    home_copy.registry.add_customers(["clinic-z"])
    before = home_copy.registry.copies(campaign.model.model_id)
    results = list(issuing.issue(home_copy, campaign, ["clinic-a"], tmp_path / "out"))
    assert [result.path for result in results] == [None]
    assert results[0].accuracy == 0.0
    assert results[0].sha256 == ""
    assert "accuracy 0.00% is 100.00% below" in results[0].reason
    assert "max-accuracy-drop 0.00%" in results[0].reason
    assert list((tmp_path / "out").iterdir()) == []
    assert home_copy.registry.copies(campaign.model.model_id) == before
    with pytest.raises(SmdlError, match=r"no copy was issued.*accuracy"):
        issuing.require_issued(results)


def test_a_loss_within_the_budget_is_accepted(
    home_copy: OwnerHome,
    spec: ModelSpec,
    base: Weights,
    copies: dict[str, Weights],
    fingerprint_config: FingerprintConfig,
    disputed: Images,
    tmp_path: Path,
) -> None:
    gate = FidelityGate(disputed, max_accuracy_drop=1.0)
    campaign = issuing.open_campaign(home_copy, spec, base, fingerprint_config, gate)
    results = list(issuing.issue(home_copy, campaign, ["clinic-a", "clinic-b"], tmp_path / "out"))
    for result in results:
        module = models.from_weights(spec, copies[result.customer])
        assert result.accuracy == evaluate(module, disputed).accuracy
        assert result.path is not None
    issuing.require_issued(results)


@pytest.mark.parametrize(("failing", "reason"), [("payload", "303 of 304"), ("carrier", "carrier")])
def test_a_copy_that_does_not_read_back_is_not_issued(
    home_copy: OwnerHome,
    reopened: Campaign,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    reason: str,
) -> None:
    home_copy.registry.add_customers(["late"])
    if failing == "payload":
        right = codes.codeword(
            reopened.model.key(home_copy.key).customer("late"), reopened.mark.biases
        )
        wrong = right.copy()
        wrong[17] ^= 1
        words = iter([right, wrong])  # embedded, then expected
        monkeypatch.setattr(codes, "codeword", lambda _key, _biases: next(words))
    else:
        monkeypatch.setattr("smdl_flower.fingerprint.carriers.score", lambda _key, _direction: 7.4)
    (result,) = issuing.issue(home_copy, reopened, ["late"], tmp_path / "out")
    assert result.path is None
    assert reason in result.reason
    assert list((tmp_path / "out").iterdir()) == []
    copies = home_copy.registry.copies(reopened.model.model_id)
    assert "late" not in {copy.customer for copy in copies}


def test_the_carrier_must_prove_its_customer_at_1e_12() -> None:
    # sqrt(2 ln(1e12 pi^2 / 6)); test_a_copy_that_does_not_read_back_is_not_issued stays just below.
    assert issuing.SELF_CHECK.carrier_threshold() == pytest.approx(7.501, abs=1e-3)


def test_an_unknown_customer_is_refused_before_any_copy_is_made(
    home_copy: OwnerHome, reopened: Campaign, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="mallory, nobody"):
        list(issuing.issue(home_copy, reopened, ["clinic-a", "nobody", "mallory"], tmp_path / "o"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_file_that_is_there_is_refused_untouched_before_any_copy_is_made(
    home_copy: OwnerHome, reopened: Campaign, tmp_path: Path, kind: str
) -> None:
    obstacle = tmp_path / "clinic-b.safetensors"
    if kind == "file":
        obstacle.write_bytes(b"precious")
    else:
        obstacle.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExistsError, match="clinic-b"):
        list(issuing.issue(home_copy, reopened, ["clinic-a", "clinic-b"], tmp_path))
    assert not (tmp_path / "clinic-a.safetensors").exists()
    assert obstacle.is_symlink() or obstacle.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_crash_between_record_and_rename_leaves_no_file_and_a_retry_succeeds(
    home_copy: OwnerHome, reopened: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_copy.registry.add_customers(["late"])
    commitments.publish(home_copy, reopened.model)
    with monkeypatch.context() as patch:

        def fail(_path: Path, _target: Path) -> Path:
            raise KeyboardInterrupt

        patch.setattr(files, "move_new", fail)
        with pytest.raises(KeyboardInterrupt):
            list(issuing.issue(home_copy, reopened, ["late"], tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []
    recorded = home_copy.registry.copies(reopened.model.model_id)[-1]
    assert recorded.customer == "late"  # recorded without a copy: harmless; the reverse is not
    (result,) = issuing.issue(home_copy, reopened, ["late"], tmp_path / "out")
    assert result.path is not None
    assert result.sha256 == recorded.weights_sha256
    assert home_copy.registry.copies(reopened.model.model_id)[-1] == recorded


def test_a_copy_that_cannot_be_recorded_does_not_appear(
    home_copy: OwnerHome, reopened: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Registry, "record_copy", fail)
    with pytest.raises(OSError, match="No space"):
        list(issuing.issue(home_copy, reopened, ["clinic-a"], tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


# ------------------------------------------------------------------------------------- campaigns


def test_opening_a_campaign_again_finds_it_as_it_was(
    home_copy: OwnerHome, reopened: Campaign, campaign: Campaign
) -> None:
    assert reopened.model.model_id == campaign.model.model_id
    assert reopened.model.profile.tobytes() == campaign.model.profile.tobytes()
    assert len(home_copy.registry.models()) == 1
    assert reopened.base_accuracy is None


@pytest.mark.parametrize(
    "change",
    [{"code_length": 303}, {"code": "nuida"}, {"code_coalition": 5}, {"strength": 0.21}],
    ids=["length", "code", "coalition", "strength"],
)
def test_opening_a_campaign_with_other_settings_is_refused(
    home_copy: OwnerHome,
    spec: ModelSpec,
    base: Weights,
    fingerprint_config: FingerprintConfig,
    change: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError, match=r"304 bits at strength 0\.2"):
        issuing.open_campaign(
            home_copy, spec, base, fingerprint_config.model_copy(update=change), UNCHECKED
        )
    assert len(home_copy.registry.models()) == 1


def test_a_model_too_small_for_its_code_is_refused_and_nothing_is_stored(
    home_copy: OwnerHome,
    spec: ModelSpec,
    fingerprint_config: FingerprintConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = fingerprint_config.model_copy(update={"code_length": 1320})
    # d = 131,992 carries floor(0.02 d / 2) = 1,319 bits.
    with pytest.raises(CapacityError, match="to 1319 or less"):
        issuing.require_capacity(spec, config)
    issuing.require_capacity(spec, config.model_copy(update={"code_length": 1319}))
    other = models.to_weights(models.build(spec, seed=5))
    monkeypatch.setattr(
        issuing, "sensitivity_profile", lambda _m, layout, _s: layout.flatten(other) * 0 + 1
    )
    with pytest.raises(CapacityError):
        issuing.open_campaign(home_copy, spec, other, config, UNCHECKED)
    assert len(home_copy.registry.models()) == 1
    assert len(list((home_copy.path / "vault").iterdir())) == 1


def test_no_copies_asked_for_is_no_failure() -> None:
    issuing.require_issued([])


def test_a_copy_that_was_issued_is_no_obstacle_and_another_customers_is(
    home_copy: OwnerHome, reopened: Campaign, tmp_path: Path
) -> None:
    """The same call after an interruption goes on."""
    out = tmp_path / "out"
    (first,) = issuing.issue(home_copy, reopened, ["clinic-a"], out)
    assert first.path is not None
    content = first.path.read_bytes()
    (out / ".clinic-b.safetensors.0a1b2c.tmp").write_bytes(content[:100])  # of a killed process
    again, other = issuing.issue(home_copy, reopened, ["clinic-a", "clinic-b"], out)
    assert (again.path, again.sha256) == (first.path, first.sha256)
    assert first.path.read_bytes() == content
    assert {p.name for p in out.iterdir()} == {"clinic-a.safetensors", "clinic-b.safetensors"}
    assert other.path is not None
    other.path.write_bytes(content)  # clinic-a's in clinic-b's place
    with pytest.raises(OutputExistsError, match="clinic-b"):
        list(issuing.issue(home_copy, reopened, ["clinic-a", "clinic-b"], out))
    assert other.path.read_bytes() == content
