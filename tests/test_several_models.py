"""Two architectures in one home: each base model is issued, traced and judged by itself."""

from pathlib import Path

import pytest

from smdl_flower import (
    checking,
    commitments,
    evidence_package,
    files,
    issuing,
    judging,
    models,
    weights,
)
from smdl_flower.attacks import altering
from smdl_flower.config import FingerprintConfig
from smdl_flower.errors import ConfigError, IntegrityError
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.judging import Trust
from smdl_flower.models import ModelSpec
from smdl_flower.verifying import verify

UNCHECKED = FidelityGate(images=None, max_accuracy_drop=0.0)
SPECS = {
    "cnn": ModelSpec("cnn", channels=1, classes=10, image_size=8),
    "resnet8": ModelSpec("resnet8", channels=3, classes=4, image_size=16),
}
CUSTOMERS = ("clinic-a", "bank-b", "police-c")


@pytest.fixture(scope="module")
def issued(
    tmp_path_factory: pytest.TempPathFactory, fingerprint_config: FingerprintConfig
) -> tuple[OwnerHome, dict[str, Path]]:
    """The home, and where the copies of each architecture are."""
    folder = tmp_path_factory.mktemp("several")
    home = OwnerHome.create(folder / "home")
    home.registry.add_customers(CUSTOMERS)
    for arch, spec in SPECS.items():
        base = models.to_weights(models.build(spec, seed=7))
        campaign = issuing.open_campaign(home, spec, base, fingerprint_config, UNCHECKED)
        results = list(issuing.issue(home, campaign, CUSTOMERS, folder / arch))
        assert all(result.path for result in results), results
    return home, {arch: folder / arch for arch in SPECS}


def model_id(home: OwnerHome, arch: str) -> str:
    (found,) = [m.model_id for m in home.base_models() if m.spec == SPECS[arch]]
    return found


@pytest.mark.parametrize("arch", SPECS)
def test_the_right_model_and_customer_are_found_also_in_an_altered_copy(
    issued: tuple[OwnerHome, dict[str, Path]], tmp_path: Path, arch: str
) -> None:
    home, folders = issued
    copy = folders[arch] / "bank-b.safetensors"
    weights.write(tmp_path / "pruned.safetensors", altering.prune(weights.read(copy).weights, 0.3))
    for suspect in (copy, tmp_path / "pruned.safetensors"):
        verdict = verify(home, suspect)
        assert [(a.customer, a.model_id) for a in verdict.accused] == [
            ("bank-b", model_id(home, arch))
        ]
        assert verdict.customers == 2 * len(CUSTOMERS)  # the bound is shared among all words


def test_the_other_model_alone_does_not_fit(
    issued: tuple[OwnerHome, dict[str, Path]],
) -> None:
    home, folders = issued
    only = verify(home, folders["cnn"] / "clinic-a.safetensors", model_id=model_id(home, "cnn"))
    assert only.accused
    assert only.customers == len(CUSTOMERS)
    with pytest.raises(Exception, match="model") as refusal:
        verify(home, folders["cnn"] / "clinic-a.safetensors", model_id=model_id(home, "resnet8"))
    assert getattr(refusal.value, "exit_code", None) == 11


def test_each_model_has_its_commitment_in_one_chain(
    issued: tuple[OwnerHome, dict[str, Path]],
) -> None:
    home, _ = issued
    owner, first, second = commitments.of_home(home)
    assert owner.kind == commitments.OWNER_KIND
    assert [c.subjects["base"][:16] for c in (first, second)] == [
        model_id(home, arch) for arch in SPECS
    ]
    assert first.predicate["merkle_root"] != second.predicate["merkle_root"]
    found = checking.check(home)
    assert (found.models, found.copies, found.commitments) == (2, 6, 3)


def disclosed(home: OwnerHome, suspect: Path, folder: Path) -> Path:
    verdict = verify(home, suspect)
    evidence_package.require_disclosable(home, verdict)
    files.write_json(folder / "verdict.json", verdict.to_json())
    evidence_package.write(home, verdict, folder)
    return folder


def test_each_is_judged_and_neither_discloses_the_other(
    issued: tuple[OwnerHome, dict[str, Path]], tmp_path: Path
) -> None:
    home, folders = issued
    trust = Trust(home.key.signing_key().public)
    packages = {}
    for arch, folder in folders.items():
        suspect = folder / "police-c.safetensors"
        packages[arch] = disclosed(home, suspect, tmp_path / arch)
        judgement = judging.judge(packages[arch], suspect, trust=trust)
        assert judgement.valid
        (confirmed,) = judgement.confirmations
        assert (confirmed.customer, confirmed.model_id) == ("police-c", model_id(home, arch))
        shown = [path.name for path in (packages[arch] / "disclosure").iterdir()]
        assert shown == [model_id(home, arch)]
    with pytest.raises(IntegrityError):
        judging.judge(packages["cnn"], folders["resnet8"] / "police-c.safetensors", trust=trust)


def test_keys_of_one_model_say_nothing_of_the_other(
    issued: tuple[OwnerHome, dict[str, Path]],
) -> None:
    home, _ = issued
    one, two = (home.campaign(model) for model in home.base_models())
    assert one.customer("clinic-a").secret != two.customer("clinic-a").secret
    assert one.secret != two.secret


def test_a_model_that_is_not_there_is_told(issued: tuple[OwnerHome, dict[str, Path]]) -> None:
    home, folders = issued
    with pytest.raises(ConfigError, match="is not in"):
        verify(home, folders["cnn"] / "clinic-a.safetensors", model_id="0" * 16)
