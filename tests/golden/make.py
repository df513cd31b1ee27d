"""Make the sample of a version that ``tests/test_golden.py`` opens for ever after.

With the code of that version, from its checkout:

    git worktree add /tmp/version COMMIT
    PYTHONPATH=/tmp/version:tests/golden python tests/golden/make.py tests/golden/VERSION

The master keys in it are samples too: they protect nothing. ``evidence/``, ``home.backup`` and a
second master key are there from the version on that has them.
"""

import importlib.util
import sys
from pathlib import Path

import torch

from smdl_flower import files, issuing, models
from smdl_flower.config import FingerprintConfig
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.models import ModelSpec

SPEC = ModelSpec("tiny:build", channels=1, classes=10, image_size=8)
CUSTOMERS = ("clinic-a", "bank-b")
WORDS = "golden"  # of the backup
SETTINGS = {
    "fingerprint.where": "server",
    "fingerprint.code-length": 32,
    "fingerprint.code": "flat",
    "fingerprint.code-coalition": 4,
    "fingerprint.strength": 0.2,
    "fingerprint.max-accuracy-drop": 0.01,
    "fingerprint.queries": 0,
    "fingerprint.query-pools": 1,
    "fingerprint.imprint-images": False,
    "demo-customers": 0,
}


def issue(home: OwnerHome, seed: int, folder: Path) -> None:
    """One copy of a new base model for each customer."""
    known = {field.alias for field in FingerprintConfig.model_fields.values()}
    settings = {key: value for key, value in SETTINGS.items() if key in known}
    config = FingerprintConfig.model_validate(settings)
    torch.manual_seed(seed)
    module = models.build(SPEC, seed=seed)
    gate = FidelityGate(None, 0.0)
    campaign = issuing.open_campaign(home, SPEC, models.to_weights(module), config, gate)
    results = list(issuing.issue(home, campaign, CUSTOMERS, folder))
    assert all(result.path for result in results), results


def make(out: Path) -> None:
    """Write home, copies and what else the version has."""
    home = OwnerHome.create(out / "home")
    home.registry.add_customers(CUSTOMERS)
    issue(home, 1, out / "copies")
    if importlib.util.find_spec("smdl_flower.backup"):
        make_later(out, home)


def make_later(out: Path, home: OwnerHome) -> None:
    """Commitments under two keys, evidence of the first, and a backup of it all."""
    # Version 0.1.0 has none of these.
    from smdl_flower import backup, evidence_package, rotation, verifying  # noqa: PLC0415

    home = rotation.rotate(home.path, None).home
    issue(home, 2, out / "copies-2")
    verdict = verifying.verify(home, out / "copies" / "clinic-a.safetensors")
    evidence_package.require_disclosable(home, verdict)
    files.write_json(out / "evidence" / "verdict.json", verdict.to_json())
    evidence_package.write(home, verdict, out / "evidence")
    backup.back_up(home.path, None, out / "home.backup", WORDS)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
