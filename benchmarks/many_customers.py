"""`smdl verify` against 10,000 customers of a ResNet-18 (11 million marked weights).

Usage: python benchmarks/many_customers.py [--customers N] [--model resnet18] [--json FILE]

A home is made in which every customer has a recorded copy; only one copy is really written, pruned
by half and examined. Times are of one thread, in this process, from file to verdict. The first line
is the baseline: reading the suspect file and hashing it.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from smdl_flower import issuing, models, verifying, weights
from smdl_flower.attacks import altering
from smdl_flower.config import FingerprintConfig
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.models import ModelSpec


def main() -> None:
    """Prepare, verify, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        home, suspect, traitor = prepare(place, arguments.model, arguments.customers)
        figures = measure(home, suspect, traitor)
    table = Table("figure", "measured")
    for key, value in figures.items():
        table.add_row(key, f"{value:,.2f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def prepare(place: Path, model: str, customers: int) -> tuple[OwnerHome, Path, str]:
    """Return a home with that many recorded copies, a suspect file, and who leaked it."""
    home = OwnerHome.create(place / "home")
    names = [f"customer-{number:05d}" for number in range(customers)]
    home.registry.add_customers(names)
    spec = ModelSpec(model, 3, 10, 32)
    base = models.to_weights(models.build(spec, seed=3))
    config = FingerprintConfig(
        where="server",
        code_length=304,
        code="flat",
        code_coalition=4,
        strength=0.2,
        max_accuracy_drop=1.0,
        queries=0,
        query_pools=1,
        imprint_images=False,
        demo_customers=0,
    )
    gate = FidelityGate(None, 1.0)
    campaign = issuing.open_campaign(home, spec, base, config, gate)
    traitor = names[customers // 2]
    (result,) = issuing.issue(home, campaign, [traitor], place / "copies")
    assert result.path is not None
    for name in track([n for n in names if n != traitor], "recording copies"):
        home.registry.record_copy(campaign.model.model_id, name, "0" * 64)
    suspect = place / "suspect.safetensors"
    weights.write(suspect, altering.prune(weights.read(result.path).weights, 0.5))
    return home, suspect, traitor


def measure(home: OwnerHome, suspect: Path, traitor: str) -> dict[str, float | int | str]:
    """Return times and what was found."""
    started = time.perf_counter()
    weights.read(suspect)
    baseline = time.perf_counter() - started
    reopened = OwnerHome.open(home.path)  # nothing cached
    started = time.perf_counter()
    verdict = verifying.verify(reopened, suspect)
    seconds = time.perf_counter() - started
    assert [a.customer for a in verdict.accused] == [traitor]
    return {
        "reading the suspect, seconds": baseline,
        "verify, seconds": seconds,
        "ratio": seconds / baseline,
        "customers compared": verdict.customers,
        "named": ", ".join(a.customer for a in verdict.accused),
        "highest unnamed z": verdict.highest_unnamed_score or 0.0,
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
