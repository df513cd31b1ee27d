"""A round of a real federation: ours against plain FedAvg on the same SuperLink.

Usage: python -m benchmarks.deployment [--model NAME]... [--rounds N] [--json FILE]

Three SuperNodes on the loopback interface, TLS and node keys, started by the scripts of
``smdl deploy init``. Both apps train the same network on the same folders; the plain one
(``plain_app/``) neither marks, checks, records nor evaluates. They alternate, so that both see the
same machine. A round's seconds are from the end of the one before; the first of each run is left
out. Bytes are Flower's own count (``flwr list``). Participants have few images: what is measured is
what a round costs beside training, so the ratio is the worst that one meets.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from smdl_flower import config, models
from smdl_flower.config import FlatConfig
from smdl_flower.flower.control import CONNECTION, Control
from smdl_flower.models import ModelSpec
from tests.e2e.deployed import NAMES, ROOT, Deployed, write_shards

PLAIN = Path(__file__).parent / "plain_app"
SIZE = 32
MODELS = ("shufflenet_v2_x0_5", "resnet18")  # 1.4 and 45 MB
REPEATS = 2
IMAGES = 180  # of all participants together


def main() -> None:
    """Start a federation, run both apps in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        deployed = started(Path(name))
        try:
            figures = [
                compare(deployed, model, arguments.rounds) for model in arguments.model or MODELS
            ]
        finally:
            deployed.stop()
    table = Table("figure", *(str(column["model"]) for column in figures))
    for key in figures[0]:
        if key != "model":
            table.add_row(key, *(f"{column[key]:,.2f}" for column in figures))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def started(place: Path) -> Deployed:
    """Return a federation of three that is connected."""
    deployed = Deployed(place)
    write_shards(deployed, train=IMAGES, test=100)
    deployed.begin()
    return deployed


def compare(deployed: Deployed, model: str, rounds: int) -> dict[str, Any]:
    """Return the figures of one network."""
    weights = models.to_weights(models.build(ModelSpec(model, 1, 10, SIZE), seed=7))
    megabytes = sum(array.nbytes for array in weights.values()) / 1e6
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    traffic: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
    stored = {"plain": 0.0, "ours": 0.0}
    for _ in range(REPEATS):
        for name, run in (("plain", plain_run), ("ours", our_run)):
            before = database(deployed)
            ends, bytes_ = run(deployed, model, rounds)
            seconds[name] += np.diff(ends).tolist()
            traffic[name].append(bytes_)
            stored[name] = max(stored[name], database(deployed) - before)
    figures: dict[str, Any] = {"model": model, "model, MB": megabytes}
    for name, values in seconds.items():
        figures[f"{name}: seconds per round (median)"] = statistics.median(values)
        figures[f"{name}: seconds per round (least)"] = min(values)
        figures[f"{name}: seconds per round (most)"] = max(values)
        per_node = 1e6 * rounds * len(NAMES)
        figures[f"{name}: MB to a node per round"] = traffic[name][0]["outbound-bytes"] / per_node
        figures[f"{name}: MB from a node per round"] = traffic[name][0]["inbound-bytes"] / per_node
        figures[f"{name}: growth of the database, MB"] = stored[name]
    ours, plain = (statistics.median(seconds[name]) for name in ("ours", "plain"))
    return figures | {"ratio of medians": ours / plain}


def our_run(deployed: Deployed, model: str, rounds: int) -> tuple[list[float], dict[str, float]]:
    """Return when each round ended, and the traffic."""
    scenario = ROOT / "scenarios" / "digits-smoke.toml"
    defaults = config.load_defaults(ROOT)
    flat = config.merge(defaults, config.load_scenario(scenario)) | {
        "data": "imagefolder",
        "image-size": SIZE,
        "model": model,
        "num-server-rounds": rounds,
        "local-epochs": 1,
        "lr-schedule": "constant",
        "fingerprint.max-accuracy-drop": 1.0,
    }
    traffic = submitted(deployed, ROOT, flat)
    return [line["seconds"] for line in deployed.metrics()], traffic


def plain_run(deployed: Deployed, model: str, rounds: int) -> tuple[list[float], dict[str, float]]:
    """Return when each round ended, and the traffic."""
    report = deployed.place / "plain.json"
    flat: FlatConfig = {"model": model, "num-server-rounds": rounds, "report": str(report)}
    traffic = submitted(deployed, PLAIN, flat)
    lines = json.loads(report.read_text(encoding="utf-8"))
    return [line["seconds"] for line in lines if line["round"]], traffic


def submitted(deployed: Deployed, app: Path, flat: FlatConfig) -> dict[str, float]:
    """Run an app to its end; return Flower's count of bytes."""
    with tempfile.TemporaryDirectory() as name:
        authority = deployed.folder / "owner" / "ca.crt"
        address = f"127.0.0.1:{deployed.port}"
        control = Control.to(address, Path(name), root_certificates=authority)
        run_id = control.submit(app, flat)
        end = control.wait(run_id)
        assert end.completed, (end, deployed.log("server")[-3000:])
        listed: Any = control.call("list", CONNECTION, "--run-id", run_id, "--format", "json")
    traffic: dict[str, float] = listed["runs"][0]["network-traffic"]
    return traffic


def database(deployed: Deployed) -> float:
    """Return the MB that the SuperLink's database and its log take."""
    files = (deployed.folder / "owner" / "state").glob("superlink.db*")
    return sum(path.stat().st_size for path in files) / 1e6


if __name__ == "__main__":
    main()
