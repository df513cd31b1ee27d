"""What answers prove: fidelity, cost and what is left of them after a thief's work.

Usage: python benchmarks/blackbox.py HOME... [--copies 5] [--queries 304] [--json FILE]

The base model of each home, trained on mnist-5k, is issued anew in a temporary home, with queries.
Then each row alters the copies, serves them, and asks for labels alone; coalitions are also asked
for probabilities. Exits 1 if anybody innocent is named.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from smdl_flower import issuing, models, weights
from smdl_flower.attacks import altering, collusion, distilling, finetuning
from smdl_flower.blackbox import teaching
from smdl_flower.blackbox.asking import Predictor
from smdl_flower.blackbox.queries import Pixels
from smdl_flower.config import DataConfig, FingerprintConfig
from smdl_flower.data import load_test
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate, IssueResult
from smdl_flower.models import ModelSpec
from smdl_flower.questioning import Question, question
from smdl_flower.vault import BaseModel
from smdl_flower.weights import Weights

DATA = DataConfig.of_one_party("mnist-5k", "", 0)
Alteration = Callable[[Weights, ModelSpec], Weights]

ALTERATIONS: dict[str, Alteration] = {
    "unaltered": lambda w, _: w,
    "fine-tune 20 epochs, SGD": lambda w, s: finetuning.fine_tune(
        w, s, finetuning.FineTuneOptions(epochs=20)
    ),
    "int8": lambda w, _: altering.quantize(w, 8),
    "int4": lambda w, _: altering.quantize(w, 4),
    "prune 50 %": lambda w, _: altering.prune(w, 0.5),
    "last layer anew": lambda w, s: finetuning.retrain_last(w, s, finetuning.FineTuneOptions()),
    "distillation": lambda w, s: distilling.distill(w, s, distilling.DistillOptions()).weights,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("homes", type=Path, nargs="+", metavar="HOME")
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--queries", type=int, default=304)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(arguments.homes):
        base = OwnerHome.open(path).base_models()[0]
        with tempfile.TemporaryDirectory() as place:
            rows += one_model(number, base, Path(place), arguments.copies, arguments.queries)
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    sys.exit(1 if any(row["wrong"] for row in rows) else 0)


def one_model(
    number: int, base: BaseModel, place: Path, copies: int, queries: int
) -> list[dict[str, Any]]:
    """Return the rows of one base model."""
    home, results, seconds = issued(base, place, copies, queries)
    accuracies = [r.accuracy or 0.0 for r in results]
    rows: list[dict[str, Any]] = [
        {
            "model": number,
            "row": "issued",
            "named": f"{len(results)} copies",
            "wrong": 0,
            "accuracy": float(np.mean(accuracies)),
            "least": min(accuracies),
            "bits": float(np.mean([(r.query_bits or 0) / queries for r in results])),
            "carrier": float(np.mean([r.carrier_score for r in results])),
            "seconds": seconds,
        }
    ]
    kept = {r.customer: weights.read(r.path).weights for r in results if r.path}
    for name, alter in ALTERATIONS.items():
        pairs = [(served(alter(w, base.spec), base.spec), {c}) for c, w in kept.items()]
        rows.append(judged(number, name, home, pairs))
    for name, change in {"JPEG 30": jpeg, "shifted by a pixel": shifted}.items():
        pairs = [(served(w, base.spec, change), {c}) for c, w in kept.items()]
        rows.append(judged(number, name, home, pairs))
    for size in sorted({2, 3, copies}):
        some = list(kept)[:size]
        mean = collusion.average([kept[c] for c in some])
        for soft in (False, True):
            said = "probabilities" if soft else "labels"
            asked = [(served(mean, base.spec, soft=soft), set(some))]
            rows.append(judged(number, f"mean of {size}, {said}", home, asked))
    innocents = [base.weights, models.to_weights(models.build(base.spec, seed=number))]
    asked = [(served(w, base.spec, soft=True), set[str]()) for w in innocents]
    rows.append(judged(number, "w0, an untrained model", home, asked))
    return rows


def issued(
    base: BaseModel, place: Path, copies: int, queries: int
) -> tuple[OwnerHome, list[IssueResult], float]:
    """Return a home with copies of the base model, and the seconds that a copy took."""
    home = OwnerHome.create(place / "home")
    home.registry.add_customers([f"customer-{i:03d}" for i in range(120)])
    config = FingerprintConfig(
        where="server",
        code_length=base.code.length,
        code=base.code.kind,
        code_coalition=base.code.coalition,
        strength=base.strength,
        max_accuracy_drop=1.0,
        queries=queries,
        query_pools=1,
        imprint_images=False,
        demo_customers=0,
    )
    gate = FidelityGate(load_test(DATA), 1.0)
    campaign = issuing.open_campaign(home, base.spec, base.weights, config, gate)
    print(f"base model {base.model_id}: accuracy {campaign.base_accuracy:.4f}")
    for customer in home.registry.customers()[copies:]:  # 120 words are compared
        home.registry.record_copy(base.model_id, customer, "0" * 64)
    started = time.process_time()
    customers = home.registry.customers()[:copies]
    results = list(issuing.issue(home, campaign, customers, place / "copies"))
    return home, results, (time.process_time() - started) / copies


def served(
    copy: Weights,
    spec: ModelSpec,
    change: Callable[[Pixels], Pixels] | None = None,
    *,
    soft: bool = False,
) -> Predictor:
    """Return a copy behind an interface that may change what it is asked."""
    network = models.from_weights(spec, copy)

    def predict(images: Pixels) -> object:
        said = teaching.logits(network, change(images) if change else images)
        return said.softmax(1).numpy() if soft else said.argmax(1).numpy()

    return predict


def jpeg(images: Pixels) -> Pixels:
    """Return images as they come out of JPEG at quality 30."""
    out = np.empty_like(images)
    for image, place in zip(images, out, strict=True):
        packed = io.BytesIO()
        Image.fromarray(image[0]).save(packed, "JPEG", quality=30)
        place[0] = np.asarray(Image.open(packed))
    return out


def shifted(images: Pixels) -> Pixels:
    """Return images moved by one pixel."""
    return np.roll(images, 1, axis=3)


def judged(
    number: int, name: str, home: OwnerHome, asked: Sequence[tuple[Predictor, set[str]]]
) -> dict[str, Any]:
    """Ask suspects and return who was named, rightly and wrongly."""
    log_ps, right, guilty, wrong = [], 0, 0, 0
    for predictor, traitors in asked:
        verdict = question(home, predictor, name, Question())
        named = {a.customer: a.witnesses[0].log10_p for a in verdict.accused}
        log_ps += [named.get(customer, 0.0) for customer in traitors]
        right += len(named.keys() & traitors)
        guilty += len(traitors)
        wrong += len(named.keys() - traitors)
    row = {"model": number, "row": name, "named": f"{right} of {guilty}", "wrong": wrong}
    return row | ({"log10_p": [round(p, 1) for p in log_ps]} if log_ps else {})


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print all rows."""
    table = Table("model", "row", "named", "wrong", "figures")
    for row in rows:
        rest = {k: v for k, v in row.items() if k not in ("model", "row", "named", "wrong")}
        shown = ", ".join(
            f"{k} {v:.4f}" if isinstance(v, float) else f"{v}" for k, v in rest.items()
        )
        table.add_row(str(row["model"]), row["row"], row["named"], str(row["wrong"]), shown)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
