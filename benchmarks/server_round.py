"""What one participant costs the server in a round, by size of the model; no network, no training.

Usage: OMP_NUM_THREADS=1 python -m benchmarks.server_round [--model NAME]... [--json FILE]

One thread. Seconds are the fastest of some repeats. "FedAvg" is Flower's own aggregation of as many
replies, per reply. "issue" is one customer's copy, read back and written, without the check on test
images.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from rich.console import Console
from rich.table import Table

from smdl_flower import config, issuing, models
from smdl_flower.flower import checkpoint, inline, packing, records, replies
from smdl_flower.flower.marking import OwnerMarker
from smdl_flower.flower.provenance import code_sha256
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

MODELS = ("shufflenet_v2_x0_5", "resnet18", "resnet101")
REPLIES = 4
CUSTOMERS = 3
T = TypeVar("T")


def main() -> None:
    """Measure each network, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = [measured(model) for model in arguments.model or MODELS]
    table = Table("figure", *(str(column["model"]) for column in figures))
    for key in figures[0]:
        if key != "model":
            table.add_row(key, *(f"{column[key]:,.3f}" for column in figures))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measured(model: str) -> dict[str, Any]:
    """Return the figures of one network."""
    spec = ModelSpec(model, 1, 10, 32)
    weights = models.to_weights(models.build(spec, seed=7))
    millions = sum(array.size for array in weights.values()) / 1e6
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        home = OwnerHome.create(place / "home")
        figures = {
            "model": model,
            "million weights": millions,
            **per_round(home, spec, weights, place),
            **per_customer(home, spec, weights, place),
        }
    figures["peak memory so far, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return figures


def per_round(home: OwnerHome, spec: ModelSpec, weights: Weights, place: Path) -> dict[str, float]:
    """Return seconds per participant and round, and per round."""
    marker = OwnerMarker(home, spec, "benchmark", 0.1)
    opened, broadcast = timed(lambda: marker.open(1, weights, range(10_000)))
    marking, sent = fastest(lambda: records.to_record(broadcast.mark(1)))
    packing_, packed = fastest(lambda: packing.pack(sent))
    unpacking, _ = fastest(lambda: packing.unpack(packed, most=1 << 30))
    reply = records.from_record(sent)
    message = reply_of(sent)
    checking, _ = fastest(lambda: replies.check_train_reply(message, weights, code_sha256()))
    taking, _ = fastest(lambda: records.to_record(broadcast.take_out(1, reply)))
    contents = [
        RecordDict({"arrays": ArrayRecord(dict(sent)), "m": MetricRecord({"num-examples": 1})})
        for _ in range(REPLIES)
    ]
    averaging, _ = fastest(lambda: aggregate_arrayrecords(contents, "num-examples"))
    state = checkpoint.Checkpoint(1, weights)
    saving, _ = fastest(lambda: checkpoint.save(place, state, "0" * 64))
    return {
        "per node: mark, s": marking,
        "per node: pack, s": packing_,
        "per node: unpack, s": unpacking,
        "per node: check reply, s": checking,
        "per node: take mark out, s": taking,
        "per node: FedAvg, s": averaging / REPLIES,
        "per round: open and record (10,000 nodes), s": opened,
        "per round: checkpoint, s": saving,
    }


def reply_of(arrays: ArrayRecord) -> Message:
    """Return a participant's whole reply."""
    inline.allow_messages()
    question = Message(RecordDict(), 1, "train")
    metrics = {records.NUM_EXAMPLES: 1, records.TRAIN_LOSS: 1.0}
    provenance = {records.PARTITION_ID: "000000", records.CODE_SHA256: code_sha256()}
    return records.train_reply(question, records.from_record(arrays), metrics, provenance)


def per_customer(
    home: OwnerHome, spec: ModelSpec, weights: Weights, place: Path
) -> dict[str, float]:
    """Return seconds per campaign and per customer, and the size of a copy."""
    names = [f"customer-{number}" for number in range(CUSTOMERS)]
    home.registry.add_customers(names)
    flat = config.load_defaults(config.example_app_dir())
    fingerprint = config.parse(flat).fingerprint
    gate = FidelityGate(images=None, max_accuracy_drop=1.0)
    opening, campaign = timed(lambda: issuing.open_campaign(home, spec, weights, fingerprint, gate))
    writing, results = timed(lambda: list(issuing.issue(home, campaign, names, place / "copies")))
    path = results[0].path
    assert path
    return {
        "per model: open the campaign, s": opening,
        "per customer: issue, s": writing / CUSTOMERS,
        "per customer: copy, MB": path.stat().st_size / 1e6,
    }


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds of one call, and its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def fastest(work: Callable[[], T], repeats: int = 3) -> tuple[float, T]:
    """Return the seconds of the fastest of some calls, and a result."""
    return min((timed(work) for _ in range(repeats)), key=lambda pair: pair[0])


if __name__ == "__main__":
    main()
