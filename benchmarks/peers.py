"""FedTracker and TraMark beside this project: the same images, the same attacks.

    python -m benchmarks.peers OUT --fedtracker PATH --tramark PATH --json FILE

The paths are the user's own checkouts; without them only our side runs. benchmarks/peers.md says
how to get them, what was measured, and by whom.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks import peer_rows
from benchmarks.peer_checkouts import DATA, PEERS
from benchmarks.peer_rows import CUSTOMERS, Samples
from smdl_flower import files, models, verifying, weights
from smdl_flower.cli.main import run as smdl
from smdl_flower.data import Images, load_split
from smdl_flower.evidence import versions
from smdl_flower.home import OwnerHome

FORMAT = "smdl-flower peers 1"
SCENARIO = Path("scenarios") / "quickstart.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="for runs and results")
    for name in PEERS:
        parser.add_argument(f"--{name}", type=Path, metavar="CHECKOUT")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {"smdl-flower": ours(arguments.out / "ours")}
    for name in PEERS:
        checkout = getattr(arguments, name)
        if checkout:
            found[name] = theirs(name, checkout, arguments.out / name)
    show(found)
    if arguments.json:
        document = {"benchmark": FORMAT, "versions": versions(), "schemes": found}
        files.write_json(arguments.json, document, mode=0o644)


class Ours:
    """Copies of a run, traced by ``smdl verify`` from their files."""

    def __init__(self, home: OwnerHome, run: Path) -> None:
        """Take the copies of a run."""
        self._home = home
        self._customers = [c["customer"] for c in _outcome(run)["copies"]]
        model_id = _outcome(run)["model_id"]
        self._spec = next(m.spec for m in home.base_models() if m.model_id == model_id)
        paths = [run / "copies" / f"{customer}.safetensors" for customer in self._customers]
        self.copies = [models.from_weights(self._spec, weights.read(p).weights) for p in paths]
        split = load_split(DATA)
        self.train, self.test = (
            _samples(part.load(np.arange(len(part.labels)))) for part in (split.train, split.test)
        )

    def fresh(self, seed: int) -> nn.Module:
        """Return an untrained model."""
        return models.build(self._spec, seed=seed)

    def trace(self, model: nn.Module) -> list[int]:
        """Return the customers whom a verdict on the model's file names."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "suspect.safetensors"
            weights.write(path, models.to_weights(model))
            verdict = verifying.verify(self._home, path)
        return [self._customers.index(a.customer) for a in verdict.accused]


def ours(place: Path) -> list[dict[str, Any]]:
    """Return our rows; the run is made if it is not there."""
    run, home = place / "run", place / "home"
    if not (run / "run.json").exists():
        options = ["--engine", "inline", "--set", f"demo-customers={CUSTOMERS}"]
        started = smdl(["init", "--home", str(home)]) or smdl(
            ["simulate", str(SCENARIO), "--home", str(home), "--out", str(run), *options]
        )
        if started:
            sys.exit(f"our run failed; remove {place} to start it anew")
    return list(peer_rows.rows(Ours(OwnerHome.open(home), run)))


def theirs(name: str, checkout: Path, place: Path) -> list[dict[str, Any]]:
    """Return a peer's rows, from a process of its own: its modules have everyday names."""
    result = place / "rows.json"
    place.mkdir(parents=True, exist_ok=True)
    module = "benchmarks.peer_checkouts"
    command = [sys.executable, "-m", module, name, str(checkout), str(place / "work")]
    if subprocess.run([*command, "--json", str(result)], check=False).returncode:
        sys.exit(f"{name} could not be run; see above")
    rows: list[dict[str, Any]] = json.loads(result.read_text())
    return rows


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print one line per row, with each scheme's traitors and innocents named."""
    table = Table("row", *found, title=f"{CUSTOMERS} copies; traitors named / innocents named")
    for lines in zip(*found.values(), strict=True):
        cells = [
            f"{line['guilty_named']} of {line['guilty']} / {line['innocents_named']} "
            f"({line['accuracy']:.1%})"
            for line in lines
        ]
        table.add_row(f"{lines[0]['row']} x {lines[0]['models']}", *cells)
    Console().print(table)


def _outcome(run: Path) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads((run / "run.json").read_text())
    return outcome


def _samples(images: Images) -> Samples:
    return Samples(images.inputs(), images.labels)


if __name__ == "__main__":
    main()
