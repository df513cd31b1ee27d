"""Marks of the models sent in training: what they cost, whom a leak names, who can be framed.

Usage: python benchmarks/training_marks.py [--seeds 7 8 9] [--json FILE]

Three tables, all from scenarios/quickstart.toml on real images, through the product's own strategy
and client app in this process; about 15 minutes on one core.

1. Accuracy of the final model with and without marks.
2. Scores of participants' words on models made to frame them, where the server subtracts what it
   added (plain) and where it projects (as the product does). Two participants train ten epochs a
   round: training undoes much of a mark then.
3. Leaks and innocent models: who is named.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid
from rich.console import Console
from rich.table import Table

from client_app.app import app as client_app
from smdl_flower import config, issuing, models, training, verifying, weights
from smdl_flower.attacks import catalogue
from smdl_flower.config import RunConfig, Scalar
from smdl_flower.data import load_test
from smdl_flower.evidence import Verdict
from smdl_flower.fingerprint import broadcast, carriers, decoys
from smdl_flower.fingerprint.embedding import CarrierMark
from smdl_flower.fingerprint.keys import CustomerKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.profile import sensitivity_profile
from smdl_flower.flower import inline, records, strategies
from smdl_flower.flower.marking import Broadcast, Marker, OwnerMarker, Unmarked
from smdl_flower.flower.strategy import FingerprintStrategy, RoundRules
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

APP = config.example_app_dir()
SCENARIO = APP / "scenarios" / "quickstart.toml"
SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=28)
HARSH = (
    *("num-participants=2", "min-replies=2", "sharding=iid", "local-epochs=10"),
    *("num-server-rounds=4", "lr-schedule=constant"),
)
Sent = dict[tuple[int, int], Weights]  # (round, node) -> as received


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        marked = {seed: marked_run(place / str(seed), f"seed={seed}") for seed in arguments.seeds}
        figures = {
            "accuracy": accuracy_rows(marked),
            "framing": framing_rows(place),
            "leaks": leak_rows(place, marked[arguments.seeds[0]]),
        }
    for title, rows in figures.items():
        table = Table(*rows[0], title=title)
        for row in rows:
            table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
        Console(width=110).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


# ------------------------------------------------------------------------------------- federations


@dataclass
class Federation:
    """A finished run: its home, its models w_0, w_1 ..., and what each node received."""

    home: OwnerHome
    models: list[Weights] = field(default_factory=list)
    sent: Sent = field(default_factory=dict)
    accuracy: float = 0.0

    def round_done(self, server_round: int, model: Weights, metrics: dict[str, float]) -> None:
        """Keep the model (a RoundObserver)."""
        del server_round
        self.models.append(model)
        self.accuracy = metrics["accuracy"]

    def issue(self, base: Weights, _grid: Grid) -> None:
        """Do nothing (an Issuer)."""

    def tap(self, grid: inline.InlineGrid) -> None:
        """Keep what is sent."""
        push = grid.push_messages

        def listening(messages: Iterable[Message]) -> Iterable[str]:
            messages = list(messages)
            for message in messages:
                received = records.from_record(message.content.array_records[records.ARRAYS])
                self.sent[len(self.models), message.metadata.dst_node_id] = received
            return push(messages)

        grid.push_messages = listening  # type: ignore[method-assign]


@dataclass(frozen=True)
class Subtracting:
    """The control: a marker that subtracts what it added instead of projecting."""

    inner: Broadcast
    model: Weights

    def mark(self, node: int) -> Weights:
        """Return the model as the node is sent it."""
        return self.inner.mark(node)

    def take_out(self, node: int, reply: Weights) -> Weights:
        """Return the reply less the mark."""
        sent = self.inner.mark(node)
        return {name: reply[name] - (sent[name] - self.model[name]) for name in reply}


class PlainMarker(OwnerMarker):
    """An owner's marker that subtracts."""

    def open(self, server_round: int, model: Weights, nodes: Sequence[int]) -> Broadcast:
        """Return the model ready to be marked."""
        return Subtracting(super().open(server_round, model, nodes), model)


def settings(*assignments: str) -> dict[str, Scalar]:
    return config.merge(config.load_defaults(APP), config.load_scenario(SCENARIO), assignments)


def marked_run(
    place: Path, *assignments: str, marker: Callable[..., Marker] = OwnerMarker
) -> Federation:
    """Return a run whose models were marked at the default strength."""
    home = OwnerHome.create(place)
    flat = settings(*assignments)
    strength = config.parse(flat).marking.strength
    return federate(home, flat, marker(home, SPEC, "benchmark", strength))


def federate(home: OwnerHome, flat: dict[str, Scalar], marker: Marker) -> Federation:
    """Run a scenario to its last round."""
    run: RunConfig = config.parse(flat)
    images, done = load_test(run.data), Federation(home)
    start = models.to_weights(models.build(SPEC, seed=run.seed))
    done.models.append(start)
    inline.allow_messages()
    grid = inline.InlineGrid(client_app, run.data.participants, flat)
    done.tap(grid)
    rounds = run.federation.rounds
    rules = RoundRules(
        run.federation.min_replies, lambda r: training.scheduled_rate(run.training, r, rounds)
    )

    def evaluate(_: int, arrays: ArrayRecord) -> MetricRecord:
        module = models.from_weights(SPEC, records.from_record(arrays))
        return MetricRecord({"accuracy": training.evaluate(module, images).accuracy})

    strategy = FingerprintStrategy(
        strategies.build(run), done, marker, rules=rules, observers=[done]
    )
    strategy.start(grid, records.to_record(start), num_rounds=rounds, evaluate_fn=evaluate)
    return done


# -------------------------------------------------------------------------------------- accuracy


def accuracy_rows(marked: dict[int, Federation]) -> list[dict[str, Any]]:
    """Return the accuracy of each seed's final model, with and without marks."""
    rows = []
    for seed, run in marked.items():
        plain = federate(run.home, settings(f"seed={seed}"), Unmarked())
        rows.append(
            {
                "seed": seed,
                "without marks, %": 100 * plain.accuracy,
                "with marks, %": 100 * run.accuracy,
            }
        )
    return rows


# --------------------------------------------------------------------------------------- framing


def framing_rows(place: Path) -> list[dict[str, Any]]:
    """Return how participants' words score on models made to frame them."""
    rows = []
    for way, marker in (("plain", PlainMarker), ("projection", OwnerMarker)):
        run = marked_run(place / way, *HARSH, "seed=7", marker=marker)
        scores: dict[str, list[tuple[float, float]]] = {}
        innocents: list[float] = []
        for number in range(1, len(run.models) - 1):
            mark, words, strangers = words_of(run, number)
            for what, suspect in framings(run.models[number], run.models[number + 1]):
                first = broadcast.read(mark, suspect, [])
                both = broadcast.read(mark, suspect, [run.models[number + 1]])
                scores.setdefault(what, []).extend((first.score(w), both.score(w)) for w in words)
                innocents += [carriers.score(w, first.directions[0]) for w in strangers]
        for what, pairs in scores.items():
            rows.append(
                {"marks taken out by": way, "suspect": what, **extent(np.array(pairs)[:, 0])}
                | {"highest, as verified": float(np.array(pairs)[:, 1].max())}
            )
        decoy = {"marks taken out by": way, "suspect": "decoys on all of them"}
        rows.append(decoy | extent(np.array(innocents)) | {"highest, as verified": ""})
    return rows


def extent(scores: np.typing.NDArray[np.float64]) -> dict[str, float | int]:
    return {
        "scores": len(scores),
        "mean": float(scores.mean()),
        "deviation": float(scores.std()),
        "highest": float(scores.max()),
    }


def words_of(
    run: Federation, number: int
) -> tuple[CarrierMark, list[CustomerKey], list[CustomerKey]]:
    """Return the mark of a round's model, its participants' words, and 20 decoys'."""
    campaign = run.home.key.campaign(weights.digest(run.models[number]))
    nodes = sorted(node for sent, node in run.sent if sent == number + 1)
    words = [broadcast.word_key(campaign, str(node)) for node in nodes]
    return broadcast.mark_of(run.models[number], campaign), words, list(decoys.keys(campaign, 20))


def framings(model: Weights, later: Weights) -> list[tuple[str, Weights]]:
    """Return models that somebody who has w_r and w_(r+1), both unmarked, could hand in."""
    layout = Layout.of(model)
    start, step = layout.flatten(model), layout.flatten(later) - layout.flatten(model)
    profile = sensitivity_profile(models.from_weights(SPEC, model), layout, (1, 28, 28))
    high = np.empty(layout.size, dtype=bool)
    for tensor in layout.tensors:
        here = profile[tensor.where]
        high[tensor.where] = here < np.median(here)  # much curvature, so a small share of a mark
    shapes = {
        **{f"w_r - {t} (w_r+1 - w_r)": -np.float32(t) * step for t in (1, 3, 10)},
        **{f"w_r + {t} (w_r+1 - w_r)": np.float32(t) * step for t in (1, 3, 10)},
        "sensitive +, others -": np.where(high, step, -step),
        "sensitive -, others +": np.where(high, -step, step),
        "sensitive only, -": np.where(high, -step, np.float32(0.0)),
        "others only, -": np.where(high, np.float32(0.0), -step),
    }
    return [(what, layout.restore(model, start + shape)) for what, shape in shapes.items()]


# ----------------------------------------------------------------------------------------- leaks


def leak_rows(place: Path, run: Federation) -> list[dict[str, Any]]:
    """Return who is named for leaks of all kinds, and for innocent models."""
    copy = issued_copy(place, run)
    suspects: list[tuple[str, str, Weights]] = []
    for number in (1, 4, 8, 12, 16):
        leak, truth = run.sent[number, 3], f"2 of {number}"
        suspects += [(f"round {number}, {what}", truth, w) for what, w in altered(leak)]
    for count in (2, 4, 8):
        own = [run.sent[number, 3] for number in range(17 - count, 17)]
        suspects.append((f"own last {count} rounds averaged", "2", average(own)))
        own = [run.sent[number, 3] for number in range(2, 2 + count)]
        suspects.append((f"own rounds 2 to {1 + count} averaged", "2", average(own)))
    for number in (2, 8, 16):
        pair = average([run.sent[number, 2], run.sent[number, 3]])
        suspects.append((f"two of round {number} averaged", f"1, 2 of {number}", pair))
    fresh = models.to_weights(models.build(SPEC, seed=4242))
    suspects += [("a customer's copy", "nobody", copy), ("a new model", "nobody", fresh)]
    suspects += [(f"w_{n} itself", "nobody", run.models[n]) for n in (0, 5, 15, 16)]
    stranger = OwnerHome.create(place / "other")
    other = OwnerMarker(stranger, SPEC, "other", 0.1).open(6, run.models[5], [3])
    suspects.append(("another owner's mark on w_5", "nobody", other.mark(3)))
    path = place / "suspect.safetensors"
    rows = []
    for what, truth, suspect in suspects:
        weights.write(path, suspect, replace=True)
        rows.append({"suspect": what, "guilty (participant of round)": truth} | named(run, path))
    return rows


def altered(leak: Weights) -> list[tuple[str, Weights]]:
    """Return what a thief may make of one broadcast."""
    tune = {"images": 800, "epochs": 5}
    return [
        ("unaltered", leak),
        *(
            (name, catalogue.run(name, [leak], SPEC, dict(options)).weights)
            for name, options in (
                ("prune", {"fraction": 0.5}),
                ("fine-tune", tune),
                ("permute-rescale", {}),
            )
        ),
    ]


def average(copies: Sequence[Weights]) -> Weights:
    return catalogue.run("average", copies, SPEC, {}).weights


def issued_copy(place: Path, run: Federation) -> Weights:
    """Return a customer's copy of the run's final model."""
    run.home.registry.add_customers(["clinic-a"])
    fingerprint = config.parse(settings()).fingerprint
    gate = FidelityGate(None, 1.0)
    campaign = issuing.open_campaign(run.home, SPEC, run.models[-1], fingerprint, gate)
    (result,) = issuing.issue(run.home, campaign, ["clinic-a"], place / "copies")
    assert result.path is not None
    return weights.read(result.path).weights


def named(run: Federation, path: Path) -> dict[str, Any]:
    """Return who a verdict names, and how strongly."""
    verdict: Verdict = verifying.verify(run.home, path)
    rounds: dict[str, list[int]] = {}
    for traced in sorted(verdict.participants, key=lambda p: p.round):
        rounds.setdefault(str(traced.participant), []).append(traced.round)
    found = [f"{who} of {', '.join(map(str, rs))}" for who, rs in sorted(rounds.items())]
    best = verdict.participants[0].score if verdict.participants else ""
    return {
        "named": "; ".join(found + [a.customer for a in verdict.accused]) or "nobody",
        "score": best,
        "alignment": verdict.alignment,
    }


if __name__ == "__main__":
    main()
