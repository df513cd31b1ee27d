"""White-box tracing against thieves and coalitions: the table that the README quotes.

Trains base models (networks x seeds) as scenarios/quickstart.toml does, issues 50 copies of each,
lets thieves alter them, verifies every stolen model from its file, and compares 10,000 customers
who were never issued a copy with a hundred of the suspects. Attacks, verdicts and records are
those of ``smdl bench``; only the choice of rows and the bars they must reach are here.

    python -m benchmarks.robustness OUT --json robustness.json

It may be interrupted: what is in OUT is not repeated, unless the code has changed. ``--quick``
takes one base model a network and shows no more than that the rows run.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import robustness_claims as claims
from benchmarks import robustness_table as table
from smdl_flower import files
from smdl_flower.bench import record, trials
from smdl_flower.bench.plan import Plan, Row
from smdl_flower.bench.record import Record
from smdl_flower.bench.subject import Subject
from smdl_flower.cli.main import run as smdl
from smdl_flower.errors import NotComparableError
from smdl_flower.evidence import versions
from smdl_flower.fingerprint import carriers, extraction
from smdl_flower.flower.provenance import code_sha256
from smdl_flower.home import OwnerHome
from smdl_flower.weights import Weights

FORMAT = "smdl-flower robustness 1"
SCENARIO = Path("scenarios") / "quickstart.toml"
COPIES = 50
INNOCENTS = 10_000
BLOCK = 64  # innocents' carriers multiplied with all suspects at once
SEEDS = (1, 2, 3)

# What a run sets beside the scenario. No fidelity gate: it would hide a copy that lost too much. No
# questions: benchmarks/blackbox.py is about copies that answer some.
SETTINGS = (
    *(f"demo-customers={COPIES}", "fingerprint.max-accuracy-drop=1.0"),
    *("fingerprint.queries=0", "fingerprint.imprint-images=false"),
)
NETWORKS: dict[str, tuple[str, ...]] = {"cnn": (), "resnet8": ("model=resnet8",)}


@dataclass(frozen=True)
class Group:
    """Rows that share a number of customers, and a record.

    Attributes:
        rows: To try.
        customers: Trials of each row and base model.
        kept: Whether the first customer's suspects are compared with innocents.
    """

    rows: tuple[Row, ...]
    customers: int
    kept: bool


def groups() -> dict[str, Group]:
    """Return all groups of rows: claims on five customers of each base model, others on fewer."""
    single = tuple(row for claim in claims.SINGLE for row in claim.rows)
    coalitions = tuple(row for claim in claims.COALITIONS for row in claim.rows)
    return {
        "single": Group(single, 5, kept=True),
        "coalitions": Group(coalitions, 5, kept=True),
        "other-coalitions": Group(claims.other_coalitions(), 1, kept=False),
        "catalogue": Group(claims.catalogue(), 2, kept=False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="for runs, results and directions")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all")
    parser.add_argument("--group", choices=groups(), action="append", help="default: all")
    parser.add_argument("--quick", action="store_true", help="one base model a network")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    chosen = {n: g for n, g in groups().items() if n in (arguments.group or groups())}
    seeds = SEEDS[:1] if arguments.quick else SEEDS
    networks = {
        network: [run_all(network, seed, arguments.out, chosen) for seed in seeds]
        for network in arguments.network or NETWORKS
    }
    document = {
        "benchmark": FORMAT,
        "commit": commit(),
        "code_sha256": code_sha256(),
        "versions": versions(),
        "networks": {name: table.of_network(runs) for name, runs in networks.items()},
    }
    table.show(document, Console())
    if arguments.json:
        files.write_json(arguments.json, document, mode=0o644)


def run_all(network: str, seed: int, out: Path, chosen: dict[str, Group]) -> dict[str, Any]:
    """Return all results on one base model, made where they are missing."""
    place = out / f"{network}-{seed}"
    train(network, seed, place)
    subject = Subject(OwnerHome.open(place / "home"), place / "run")
    results = place / f"results-{code_sha256()[:12]}"
    benches = {}
    for name, group in chosen.items():
        what = Plan(group.rows, group.customers, seeds=1, first_seed=1000 * seed + 1)
        benches[name] = carry_out(subject, what, results / name, group.kept)
    return {
        "network": network,
        "seed": seed,
        "run": json.loads((place / "run" / "run.json").read_text()),
        "benches": benches,
        "innocents": innocents(subject, results),
    }


def train(network: str, seed: int, place: Path) -> None:
    """Train a base model and issue its copies, unless that was done."""
    if (place / "run" / "run.json").exists():
        return
    shutil.rmtree(place, ignore_errors=True)  # of a run that was interrupted
    settings = (*SETTINGS, *NETWORKS[network], f"seed={seed}")
    options = [word for setting in settings for word in ("--set", setting)]
    where = ["--home", str(place / "home"), "--out", str(place / "run")]
    if smdl(["init", *where[:2]]):
        sys.exit("no home could be made")
    if smdl(["simulate", str(SCENARIO), "--engine", "inline", *where, *options]):
        sys.exit(f"the run in {place} failed")


def carry_out(subject: Subject, what: Plan, folder: Path, kept: bool) -> dict[str, Any]:
    """Return the bench of a plan, going on with what is there."""
    results = Record(folder / record.NAME, subject.home.key, trials.identity(subject, what))
    todo = trials.trials(subject, what)
    columns = (TextColumn("{task.description:42}"), BarColumn(), MofNCompleteColumn())
    label = f"{folder.parents[1].name} {folder.name}"
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=len(todo))
        seen: set[str] = set()
        for trial, stolen in trials.run(subject, todo, results):
            name = f"{trial.row.attack} {json.dumps(dict(trial.row.settings))} {trial.row.copies}"
            if kept and stolen is not None and name not in seen:
                last = results.results(trial.row)[-1]
                keep(subject, stolen, last.alignment or "none", folder.parent / "kept", name)
            seen.add(name)
            bars.update(task, advance=1, description=f"{label} {trial.row.attack}")
    return results.document()


def keep(subject: Subject, stolen: Weights, alignment: str, folder: Path, name: str) -> None:
    """Store the direction that innocents' carriers are compared with."""
    try:
        suspect = subject.in_base_form(stolen, alignment)
        direction = extraction.read(subject.mark, suspect).direction
    except NotComparableError:
        return
    if not direction.any():  # equal to w0: every score is zero
        return
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / f"{name}.f32", direction.astype("<f4").tobytes())


def innocents(subject: Subject, results: Path) -> list[dict[str, Any]]:
    """Return the law of 10,000 innocents' scores for each suspect that was kept."""
    paths = sorted((results / "kept").glob("*.f32"))
    cached = results / "innocents.json"
    if cached.exists():
        found: list[dict[str, Any]] = json.loads(cached.read_text())
        if [row["suspect"] for row in found] == [path.stem for path in paths]:
            return found
    if not paths:
        return []
    directions = np.stack([np.frombuffer(path.read_bytes(), "<f4") for path in paths], axis=1)
    scores = np.concatenate(list(_scores(subject, np.ascontiguousarray(directions))))
    found = [
        {
            "suspect": path.stem,
            "std": float(column.std()),
            "max": float(column.max()),
            "customers": len(column),
        }
        for path, column in zip(paths, scores.T, strict=True)
    ]
    files.write_json(cached, found)
    return found


def _scores(subject: Subject, directions: np.typing.NDArray[np.float32]) -> Iterator[Any]:
    """Yield blocks of carrier scores, ``(customers, suspects)``."""
    campaign = subject.model.key(subject.home.key)
    for start in range(0, INNOCENTS, BLOCK):
        numbers = range(start, min(start + BLOCK, INNOCENTS))
        values = np.empty((len(numbers), len(directions)), dtype=np.float32)
        for row, number in enumerate(numbers):
            # A slash cannot occur in a customer's name: nobody was ever issued such a copy.
            key = campaign.customer(f"innocent/{number}")
            for where, piece in carriers.chunks(key, len(directions)):
                values[row, where] = piece
        yield (values @ directions).astype(float)


def commit() -> str:
    """Return the commit of the code, marked if files were changed since."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


if __name__ == "__main__":
    main()
