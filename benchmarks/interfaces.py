"""What an interface may do to questions and answers, and whom answers name all the same.

Usage: python benchmarks/interfaces.py HOME RUN [--json FILE]

RUN must have issued copies with queries:
smdl simulate scenarios/quickstart.toml --set fingerprint.queries=304 --home HOME --out RUN
Each row asks every copy, and the base model, through one obstacle or in one kind of answers. Exits
1 if anybody innocent is named.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from smdl_flower import weights
from smdl_flower.blackbox.asking import Predictor
from smdl_flower.home import OwnerHome
from smdl_flower.interface.obstacles import Obstacle
from smdl_flower.interface.pixels import Scale, scaled
from smdl_flower.interface.serving import Kind, Served, Telling
from smdl_flower.models import ModelSpec
from smdl_flower.questioning import Question, question
from smdl_flower.weights import Weights

INTERFACES: dict[str, Telling] = {
    "labels": Telling(Kind.LABELS),
    "top 1 with its probability": Telling(Kind.TOP_K, top=1),
    "top 3": Telling(Kind.TOP_K, top=3),
    "probabilities": Telling(),
    "probabilities, 2 decimals": Telling(digits=2),
    "probabilities, 1 decimal": Telling(digits=1),
    "probabilities, noise 0.05": Telling(noise=0.05),
    "probabilities, noise 0.3": Telling(noise=0.3),
    "logits": Telling(Kind.LOGITS),
    **{f"{o}, labels": Telling(Kind.LABELS, obstacles=(o,)) for o in Obstacle},
    **{f"{o}, probabilities": Telling(obstacles=(o,)) for o in Obstacle},
    "resize, noise, jpeg-30, labels": Telling(
        Kind.LABELS, obstacles=(Obstacle.RESIZE, Obstacle.NOISE, Obstacle.JPEG_30)
    ),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    home = OwnerHome.open(arguments.home)
    rows = [judged(home, arguments.run, name, how) for name, how in INTERFACES.items()]
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    sys.exit(1 if any(row["wrong"] for row in rows) else 0)


def judged(home: OwnerHome, run: Path, name: str, how: Telling) -> dict[str, Any]:
    """Ask every suspect through one interface, and return who was named, rightly and wrongly."""
    log_ps, right, wrong, guilty = [], 0, 0, 0
    for customer, spec, copy in suspects(home, run):
        predictor = behind(Served(spec, copy, how))
        verdict = question(home, predictor, f"{name}: {customer}", Question(pool=1))
        named = {a.customer: a.witnesses[0].log10_p for a in verdict.accused}
        if customer:
            guilty += 1
            right += customer in named
            log_ps.append(named.pop(customer, 0.0))
        wrong += len(named)
    return {"interface": name, "copies": guilty, "named": right, "wrong": wrong, "log10_p": log_ps}


def suspects(home: OwnerHome, run: Path) -> Iterator[tuple[str, ModelSpec, Weights]]:
    """The run's copies, and the base model, which is nobody's."""
    (base,) = home.base_models()
    yield "", base.spec, base.weights
    for path in sorted((run / "copies").glob("*.safetensors")):
        yield path.stem, base.spec, weights.read(path).weights


def behind(served: Served) -> Predictor:
    """Return a served model as a predictor, without a network between."""
    return lambda images: served.answer(scaled(images, Scale.SIGNED))


def show(rows: list[dict[str, Any]]) -> None:
    """Print all rows."""
    table = Table("interface", "named", "wrongly named", "log10 p, weakest", "median")
    for row in rows:
        p = row["log10_p"]
        named = f"{row['named']} of {row['copies']}"
        figures = (f"{max(p):.1f}", f"{np.median(p):.1f}")
        table.add_row(row["interface"], named, str(row["wrong"]), *figures)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
