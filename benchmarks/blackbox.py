"""What answers prove: fidelity, cost and what is left of them after a thief's work.

Usage: python -m benchmarks.blackbox HOME... [--copies 5] [--trained 5] [--queries 304] [--json F]

The base model of each home, trained on mnist-5k, is issued anew in a temporary home, with queries,
and 120 words are compared. Then each row alters the copies, serves them, and asks, for labels alone
unless it says otherwise. Rows that train a model are tried on the first ``--trained`` copies of
each base model, those that train a student on the first one. Exits 1 if anybody innocent is named.
"""

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import blackbox_thieves as thieves
from benchmarks.blackbox_thieves import served
from smdl_flower import issuing, models, weights
from smdl_flower.attacks import collusion
from smdl_flower.blackbox import asking
from smdl_flower.blackbox.answering import Interview
from smdl_flower.blackbox.asking import Predictor
from smdl_flower.config import DataConfig, FingerprintConfig
from smdl_flower.data import Images, load_test
from smdl_flower.fingerprint import carriers, codes, embedding, extraction
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.home import OwnerHome
from smdl_flower.interface.obstacles import Obstacle
from smdl_flower.issuing import FidelityGate, IssueResult
from smdl_flower.models import ModelSpec
from smdl_flower.questioning import Question, question
from smdl_flower.training import evaluate
from smdl_flower.vault import BaseModel
from smdl_flower.weights import Weights

DATA = DataConfig.of_one_party("mnist-5k", "", 0)
CUSTOMERS = 120
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is tried of each base model."""

    copies: int
    trained: int
    queries: int
    words: int
    unseen: Images | None


@dataclass(frozen=True)
class Subject:
    """A base model with copies, in a home of its own."""

    number: int
    home: OwnerHome
    base: BaseModel  # as issued, with queries
    copies: dict[str, Weights]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("homes", type=Path, nargs="+", metavar="HOME")
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--trained", type=int, default=5, help="copies that thieves train")
    parser.add_argument("--queries", type=int, default=304)
    parser.add_argument("--words", type=int, default=20_000, help="of nobody, for calibration")
    parser.add_argument(
        "--unseen", type=Path, metavar="DIR", help="of MNIST's t10k-*-ubyte.gz: accuracy on those"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    unseen = mnist_test(arguments.unseen) if arguments.unseen else None
    sizes = Sizes(arguments.copies, arguments.trained, arguments.queries, arguments.words, unseen)
    bases = [OwnerHome.open(path).base_models()[0] for path in arguments.homes]
    rows: list[Row] = []
    for number, base in enumerate(bases):
        others = [other.weights for other in bases if other is not base]
        with tempfile.TemporaryDirectory() as place:
            for row in one_model(number, base, others, sizes, Path(place)):
                print(row, flush=True)
                rows.append(row)
                if arguments.json:  # a long run may be interrupted
                    arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    show(rows)
    sys.exit(1 if any(row.get("wrong") for row in rows) else 0)


def one_model(
    number: int, base: BaseModel, others: Sequence[Weights], sizes: Sizes, place: Path
) -> Iterator[Row]:
    """Yield the rows of one base model."""
    subject, row = issued(number, base, sizes, place)
    yield row
    yield from white_box(subject, sizes)
    spec, copies = subject.base.spec, subject.copies
    for name, alter in thieves.ALTERATIONS.items():
        pairs = [(served(alter(w, spec), spec), {c}) for c, w in copies.items()]
        yield judged(subject, name, pairs)
    for obstacle in Obstacle:
        pairs = [(served(w, spec, obstacle), {c}) for c, w in copies.items()]
        yield judged(subject, str(obstacle), pairs)
    pairs = [(served(w, spec, decimals=1), {c}) for c, w in copies.items()]
    yield judged(subject, "probabilities of one decimal", pairs)
    yield from coalitions(subject)
    suspects = [subject.base.weights, models.to_weights(models.build(spec, seed=number)), *others]
    innocent = [(served(w, spec, decimals=6), set[str]()) for w in suspects]
    yield judged(subject, f"{len(suspects)} models that are nobody's", innocent)
    if sizes.words and number == 0:
        yield calibrated(subject, sizes.words)
    some = list(copies.items())[: sizes.trained]
    for name, train in thieves.TRAINED.items() if some else ():
        stolen = {c: train(w, spec) for c, w in some}
        yield judged(subject, name, [(served(w, spec), {c}) for c, w in stolen.items()], stolen)
    for name, steal in thieves.STUDENTS.items() if some else ():
        student = served(steal(some[0][1], spec), spec, decimals=6)
        yield judged(subject, name, [(student, {some[0][0]})])


def issued(number: int, base: BaseModel, sizes: Sizes, place: Path) -> tuple[Subject, Row]:
    """Return a base model with copies, and what they cost."""
    home = OwnerHome.create(place / "home")
    home.registry.add_customers([f"customer-{i:03d}" for i in range(CUSTOMERS)])
    config = FingerprintConfig(
        where="server",
        code_length=base.code.length,
        code=base.code.kind,
        code_coalition=base.code.coalition,
        strength=base.strength,
        max_accuracy_drop=1.0,
        queries=sizes.queries,
        query_pools=1,
        imprint_images=False,
        demo_customers=0,
    )
    started = time.process_time()
    gate = FidelityGate(load_test(DATA), 1.0)
    campaign = issuing.open_campaign(home, base.spec, base.weights, config, gate)
    prepared = time.process_time() - started
    for customer in home.registry.customers()[sizes.copies :]:  # all words are compared
        home.registry.record_copy(base.model_id, customer, "0" * 64)
    started = time.process_time()
    customers = home.registry.customers()[: sizes.copies]
    results = list(issuing.issue(home, campaign, customers, place / "copies"))
    seconds = (time.process_time() - started) / sizes.copies
    copies = {r.customer: weights.read(r.path).weights for r in results if r.path}
    row = _issued_row(number, campaign.base_accuracy or 0.0, results)
    row |= {"seconds": round(seconds, 2), "seconds_once": round(prepared, 1)}
    if sizes.unseen:
        found = [accuracy(base.spec, w, sizes.unseen) for w in (base.weights, *copies.values())]
        row |= {"unseen_base": found[0], "unseen": found[1:]}
    return Subject(number, home, campaign.model, copies), row


def mnist_test(folder: Path) -> Images:
    """Return MNIST's 10,000 test images, none of which is in mnist-5k."""
    pixels, labels = (
        torch.frombuffer(
            bytearray(gzip.decompress((folder / name).read_bytes())), dtype=torch.uint8
        )[offset:]
        for name, offset in (("t10k-images-idx3-ubyte.gz", 16), ("t10k-labels-idx1-ubyte.gz", 8))
    )
    classes = load_test(DATA).classes
    return Images(pixels.reshape(-1, 1, 28, 28), labels.long(), classes)


def accuracy(spec: ModelSpec, copy: Weights, images: Images) -> float:
    """Return a copy's accuracy."""
    return round(evaluate(models.from_weights(spec, copy), images).accuracy, 4)


def _issued_row(number: int, base_accuracy: float, results: Sequence[IssueResult]) -> Row:
    accuracies = [r.accuracy or 0.0 for r in results]
    return {
        "model": number,
        "row": "issued",
        "named": f"{sum(r.path is not None for r in results)} copies of {len(results)}",
        "wrong": 0,
        "base_accuracy": base_accuracy,
        "accuracy": round(float(np.mean(accuracies)), 4),
        "least_accuracy": min(accuracies),
        "answers": [r.query_bits for r in results],
    }


def white_box(subject: Subject, sizes: Sizes) -> Iterator[Row]:
    """Yield the marks of the weights in copies with queries against copies without."""
    mark, spec = subject.base.mark(subject.home.key), subject.base.spec
    campaign = subject.base.key(subject.home.key)

    def read(mark: Mark, copy: Weights, customer: str) -> tuple[float, int]:
        reading, key = extraction.read(mark, copy), campaign.customer(customer)
        right = int((reading.bits == codes.codeword(key, mark.biases)).sum())
        return carriers.score(key, reading.direction), right

    for name, alter in thieves.WHITE_BOX.items():
        trains = name in thieves.TRAINED
        some = list(subject.copies.items())[: min(1, sizes.trained) if trains else None]
        pairs = []
        for customer, copy in some:
            vector = embedding.embed(mark, campaign.customer(customer))
            plain = mark.layout.restore(subject.base.weights, vector)
            both = (mark, copy), (replace(mark, taught=None), plain)
            pairs.append([read(m, alter(w, spec), customer) for m, w in both])
        if pairs:
            taught, without = (np.array(side) for side in zip(*pairs, strict=True))
            yield {
                "model": subject.number,
                "row": f"weights: {name}",
                "carrier": round(float(taught[:, 0].mean()), 1),
                "carrier_without": round(float(without[:, 0].mean()), 1),
                "payload": taught[:, 1].astype(int).tolist(),
                "payload_without": without[:, 1].astype(int).tolist(),
            }


def coalitions(subject: Subject) -> Iterator[Row]:
    """Yield what several copies answer together: averaged, or one by one."""
    spec, names = subject.base.spec, list(subject.copies)
    for size in sorted({n for n in (2, 3, len(names)) if n <= len(names)}):
        some = [subject.copies[c] for c in names[:size]]
        guilty = set(names[:size])
        mean = collusion.average(some)
        yield judged(subject, f"mean of {size}", [(served(mean, spec), guilty)])
        soft = served(mean, spec, decimals=6)
        yield judged(subject, f"mean of {size}, probabilities", [(soft, guilty)])
        for vote in thieves.VOTES:
            asked = [(thieves.ensemble(some, spec, vote), guilty)]
            yield judged(subject, f"{size} copies, {vote} answer", asked)


def calibrated(subject: Subject, count: int) -> Row:
    """Return how often words that nobody has reach small p-values on the base model's answers."""
    bank, key = subject.base.queries, subject.base.key(subject.home.key)
    assert bank is not None
    pool = bank.pools[0]
    suspect = served(subject.base.weights, subject.base.spec, decimals=6)
    answers = asking.ask(suspect, pool.images, subject.base.spec.classes)
    interview = Interview.of(bank, pool, key, answers)
    log_ps = [interview.compare(key.customer(f"random/{i}")).tests for i in range(count)]
    p_values = np.exp([[test.log_p for test in tests] for tests in log_ps])
    return {
        "model": subject.number,
        "row": f"{count} words of nobody",
        "most_below_0.01": float((p_values <= 0.01).mean(0).max()),
        "most_below_0.001": float((p_values <= 0.001).mean(0).max()),
        "least": float(p_values.min()),
    }


def judged(
    subject: Subject,
    name: str,
    asked: Sequence[tuple[Predictor, set[str]]],
    stolen: dict[str, Weights] | None = None,
) -> Row:
    """Ask suspects and return who was named, rightly and wrongly; accuracy of what was trained."""
    log_ps, right, guilty, wrong = [], 0, 0, 0
    for predictor, traitors in asked:
        verdict = question(subject.home, predictor, name, Question())
        named = {a.customer: a.witnesses[0].log10_p for a in verdict.accused}
        log_ps += [named.get(customer, 0.0) for customer in sorted(traitors)]
        right += len(named.keys() & traitors)
        guilty += len(traitors)
        wrong += len(named.keys() - traitors)
    row = {"model": subject.number, "row": name, "named": f"{right} of {guilty}", "wrong": wrong}
    if stolen:
        images = load_test(DATA)
        row["accuracy"] = [accuracy(subject.base.spec, w, images) for w in stolen.values()]
    return row | ({"log10_p": [round(p, 1) for p in log_ps]} if log_ps else {})


def show(rows: Sequence[Row]) -> None:
    """Print all rows."""
    table = Table("model", "row", "named", "wrong", "figures")
    for row in rows:
        rest = {k: v for k, v in row.items() if k not in ("model", "row", "named", "wrong")}
        shown = ", ".join(
            f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in rest.items()
        )
        named, wrong = str(row.get("named", "")), str(row.get("wrong", ""))
        table.add_row(str(row["model"]), row["row"], named, wrong, shown)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
