"""The figures of the README's table, from a run of scenarios/quickstart.toml.

Usage: python benchmarks/quickstart.py HOME RUN [--json FILE]

Every copy is verified, from its file and from its labels; then three innocent models are: the base
model itself, a model trained anew on the same images, and a copy that another owner made of the
same base model for a customer of the same name.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from smdl_flower import issuing, models, training, verifying, weights
from smdl_flower.blackbox import teaching
from smdl_flower.blackbox.asking import Predictor
from smdl_flower.blackbox.queries import Pixels
from smdl_flower.config import DataConfig, FingerprintConfig, TrainingConfig
from smdl_flower.data import load_split, load_test
from smdl_flower.evidence import Verdict
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.questioning import Question, question
from smdl_flower.vault import BaseModel

DATA = DataConfig.of_one_party("mnist-5k", "", 0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    outcome = json.loads((arguments.run / "run.json").read_text())
    home = OwnerHome.open(arguments.home)
    model = next(m for m in home.base_models() if m.model_id == outcome["model_id"])
    figures = {
        **copies_figures(home, arguments.run, outcome),
        **images_figures(outcome),
        **answers_figures(home, model, arguments.run),
        **innocents_figures(home, model),
    }
    table = Table("figure", "measured")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def copies_figures(home: OwnerHome, run: Path, outcome: dict[str, Any]) -> dict[str, Any]:
    """Return fidelity and traceability of the issued copies."""
    issued = [copy for copy in outcome["copies"] if copy["path"]]
    drops = [100 * (outcome["base_accuracy"] - copy["accuracy"]) for copy in issued]
    right, strongest = 0, []
    for copy in issued:
        verdict = verifying.verify(home, run / copy["path"])
        right += [a.customer for a in verdict.accused] == [copy["customer"]]
        strongest.append(verdict.accused[0].witnesses[0].log10_p)
    return {
        "accuracy of the global model, %": 100 * outcome["base_accuracy"],
        "copies issued": f"{len(issued)} of {len(outcome['copies'])}",
        "accuracy drop, mean, points": float(np.mean(drops)),
        "accuracy drop, worst, points": float(np.max(drops)),
        "payload bits right, least": min(copy["matching_bits"] for copy in issued),
        "copies traced to their customer alone": f"{right} of {len(issued)}",
        "log10 p, weakest": max(strongest),
    }


def images_figures(outcome: dict[str, Any]) -> dict[str, Any]:
    """Return what copies do with test images that carry their customers' words."""
    reports = [copy["imprint"] for copy in outcome["copies"] if copy["path"]]
    return {
        "bits in each marked image": reports[0]["bits"],
        "bits read back from marked images, %": 100 * min(r["bits_read"] for r in reports),
        "PSNR of marked images, least, dB": min(r["psnr_least"] for r in reports),
        "accuracy on marked images, mean, %": 100
        * float(np.mean([r["accuracy"] for r in reports])),
        "accuracy on marked images, worst, %": 100 * min(r["accuracy"] for r in reports),
    }


def answers_figures(home: OwnerHome, model: BaseModel, run: Path) -> dict[str, Any]:
    """Return whom labels name: of every copy, and of the base model."""
    right, wrong, strongest, bits = 0, 0, [], []
    for path in [*sorted((run / "copies").glob("*.safetensors")), None]:
        suspect = weights.read(path).weights if path else model.weights
        name = path.stem if path else ""
        verdict = question(home, labels_of(model, suspect), name or "base model", Question(pool=1))
        named = {a.customer: a.witnesses[0].log10_p for a in verdict.accused}
        if path:
            right += name in named
            strongest.append(named.pop(name, 0.0))
            bits.append(verdict.payload.matching_bits)
        wrong += len(named)
    return {
        "copies traced by their labels": f"{right} of {len(strongest)}",
        "bits read from labels, least": min(bits),
        "log10 p from labels, weakest": max(strongest),
        "wrongly named by labels, base model included": wrong,
    }


def labels_of(model: BaseModel, suspect: weights.Weights) -> Predictor:
    """Return a model that tells its labels."""
    network = models.from_weights(model.spec, suspect)

    def predict(images: Pixels) -> object:
        return teaching.logits(network, images).argmax(1).numpy()

    return predict


def innocents_figures(home: OwnerHome, model: BaseModel) -> dict[str, Any]:
    """Return how many customers are named for each innocent model."""
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        suspects = {
            "the base model": model.weights,
            "a model trained anew": trained_anew(model),
            "another owner's copy": other_owners_copy(model, place, home.registry.customers()[0]),
        }
        for number, (what, suspect) in enumerate(suspects.items()):
            path = place / f"{number}.safetensors"
            weights.write(path, suspect)
            verdict: Verdict = verifying.verify(home, path)
            highest = max(verdict.carrier_scores, default=0.0)
            figures[f"named for {what}"] = f"{len(verdict.accused)} (highest z {highest:.1f})"
    return figures


def trained_anew(model: BaseModel) -> weights.Weights:
    """Return a model of the same architecture, trained on the same images from another start."""
    train = load_split(DATA).train
    images = train.load(np.arange(len(train.labels)))
    fresh = models.build(model.spec, seed=4242)
    config = TrainingConfig(
        epochs=3,
        batch_size=32,
        learning_rate=0.05,
        schedule="constant",
        momentum=0.9,
        weight_decay=5e-4,
        augment="none",
    )
    training.train(
        *(fresh, images, config),
        learning_rate=0.05,
        generator=torch.Generator().manual_seed(4242),
    )
    return models.to_weights(fresh)


def other_owners_copy(model: BaseModel, place: Path, customer: str) -> weights.Weights:
    """Return what another owner makes of the same base model for a customer of the same name."""
    other = OwnerHome.create(place / "other")
    other.registry.add_customers([customer])
    config = FingerprintConfig(
        where="server",
        code_length=model.code.length,
        code=model.code.kind,
        code_coalition=model.code.coalition,
        strength=model.strength,
        max_accuracy_drop=1.0,
        queries=0,
        query_pools=1,
        imprint_images=False,
        demo_customers=0,
    )
    gate = FidelityGate(load_test(DATA), 1.0)
    campaign = issuing.open_campaign(other, model.spec, model.weights, config, gate)
    (result,) = issuing.issue(other, campaign, [customer], place / "copies")
    assert result.path is not None
    return weights.read(result.path).weights


if __name__ == "__main__":
    main()
