"""Are the stated bounds on false accusation kept? Ten thousand innocents against many suspects.

Takes an owner's home and a run folder, makes suspects from the run's copies and base model as a
thief would, and compares each with the fingerprints of customers who were never issued a copy. All
of them are innocent, so every score is a draw from the law the verdict relies on:

* carrier: P(z >= t) <= exp(-t^2/2) (theorem 3);
* payload: P(p <= u) <= u (theorem 1).

    python benchmarks/false_accusation.py HOME RUN --json innocents.json --plot innocents.png

The exit code is 1 if an innocent would have been named. Suspects made from the same copies are
related, so counts pooled over suspects are not independent draws; counts of one suspect are.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from smdl_flower import files, models, verifying, weights
from smdl_flower.attacks import catalogue
from smdl_flower.config import Scalar
from smdl_flower.evidence import versions
from smdl_flower.fingerprint import carriers, codes, extraction, tracing
from smdl_flower.fingerprint.accusation import DEFAULT_BOUND, Level, carrier_log_p
from smdl_flower.fingerprint.cancellation import cancel
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.extraction import Reading
from smdl_flower.fingerprint.keys import CampaignKey, CustomerKey
from smdl_flower.flower.owner import read_passphrase_file
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec
from smdl_flower.vault import BaseModel
from smdl_flower.weights import Weights

FORMAT = "smdl-flower false accusation 1"
BLOCK = 64  # carriers multiplied with all suspects at once
CUTS = (1.0, 2.0, 3.0, 3.5, 4.0)
LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)

Scores = NDArray[np.float64]

SINGLE: tuple[tuple[str, dict[str, Scalar]], ...] = (
    ("prune", {"fraction": 0.5}),
    ("prune", {"fraction": 0.95}),
    ("quantize", {"bits": 8}),
    ("quantize", {"bits": 2}),
    ("noise", {"level": 0.3, "seed": 1}),
    ("noise", {"level": 3.0, "seed": 2}),
)


@dataclass(frozen=True)
class Suspect:
    """A model to examine, and the issued customers whose copies took part in it."""

    name: str
    weights: Weights
    guilty: tuple[str, ...]


def suspects(run: Path, model: BaseModel, *, fine_tune: str | None) -> Iterator[Suspect]:
    """Yield untouched, altered and merged copies, and models that hold no copy at all."""
    paths = sorted((run / "copies").glob("*.safetensors"))
    copies = {path.stem: weights.read(path).weights for path in paths}
    spec = model.spec
    for number, (name, copy) in enumerate(copies.items()):
        yield Suspect(name, copy, (name,))
        yield from _altered(name, copy, spec, (name,), number)
    if len(copies) > 1:
        average = catalogue.run("average", list(copies.values()), spec, {}).weights
        yield Suspect(f"average of {len(copies)}", average, tuple(copies))
        pruned = catalogue.run("prune", [average], spec, {"fraction": 0.7}).weights
        yield Suspect(f"average of {len(copies)}, prune 0.7", pruned, tuple(copies))
    if fine_tune and copies:
        first = next(iter(copies))
        settings: dict[str, Scalar] = {"data": fine_tune, "epochs": 1, "images": 400}
        tuned = catalogue.run("fine-tune", [copies[first]], spec, settings).weights
        yield Suspect(f"{first}, fine-tuned", tuned, (first,))
    yield Suspect("base model", model.weights, ())
    yield from _altered("base", model.weights, spec, (), len(copies))
    for seed in (1, 2):
        fresh = models.to_weights(models.build(spec, seed=seed))
        yield Suspect(f"fresh model {seed}", fresh, ())


def _altered(
    name: str, model: Weights, spec: ModelSpec, guilty: tuple[str, ...], number: int
) -> Iterator[Suspect]:
    for attack, options in SINGLE:
        settings = dict(options)
        if "seed" in settings:  # other noise for each model: the same would be one suspect
            settings["seed"] = int(settings["seed"]) + 10 * number
        label = f"{name}, {attack} {next(iter(options.values()))}"
        yield Suspect(label, catalogue.run(attack, [model], spec, settings).weights, guilty)


def with_later_stages(
    found: list[Suspect], readings: list[Reading], campaign: CampaignKey
) -> tuple[list[Suspect], list[Reading]]:
    """Add what a later stage compares with: all guilty carriers of a coalition taken out."""
    later = [
        (
            replace(suspect, name=f"{suspect.name}, later stage"),
            replace(
                reading, direction=cancel(reading, list(map(campaign.customer, suspect.guilty)))
            ),
        )
        for suspect, reading in zip(found, readings, strict=True)
        if len(suspect.guilty) > 1
    ]
    return [*found, *(s for s, _ in later)], [*readings, *(r for _, r in later)]


def carrier_scores(
    readings: list[Reading], keys: list[CustomerKey], size: int, console: Console
) -> Scores:
    """Return each customer's carrier score for each suspect, ``(customers, suspects)``."""
    directions = np.stack([reading.direction for reading in readings], axis=1)
    scores = np.empty((len(keys), len(readings)))
    blocks = range(0, len(keys), BLOCK)
    for start in track(blocks, "Carriers", console=console):
        block = keys[start : start + BLOCK]
        values = np.empty((len(block), size), dtype=np.float32)
        for row, key in enumerate(block):
            for where, piece in carriers.chunks(key, size):
                values[row, where] = piece
        scores[start : start + BLOCK] = values @ directions
    for row in range(0, len(keys), max(1, len(keys) // 10)):  # the product's own way agrees
        column = row % len(readings)
        own = carriers.score(keys[row], readings[column].direction)
        assert abs(own - scores[row, column]) < 1e-3, (own, scores[row, column])
    return scores


def payload_log_ps(
    readings: list[Reading], keys: list[CustomerKey], mark: Mark, console: Console
) -> Scores:
    """Return ln of each customer's payload p-values, ``(customers, suspects, decoders)``."""
    words = [codes.codeword(key, mark.biases) for key in keys]
    columns = []
    for reading in track(readings, "Payloads", console=console):
        tests = tracing.payload_tests(mark, reading).values()
        columns.append([[t.log_p(t.score(word)) for t in tests] for word in words])
    return np.array(columns).swapaxes(0, 1)


def judge(
    found: list[Suspect], scores: Scores, log_ps: Scores, level: Level, guilty: Scores
) -> dict[str, Any]:
    """Return all figures: per suspect, pooled, and how many innocents would have been named."""
    named = (scores >= level.carrier_threshold()) | (log_ps.min(axis=2) <= level.log_p())
    rows = []
    for column, suspect in enumerate(found):
        z = scores[:, column]
        row = {"suspect": suspect.name, **_law(z), "named": int(named[:, column].sum())}
        row["guilty"] = float(guilty[column]) if suspect.guilty else None
        row["payload_p_at_most"] = _calibration(log_ps[:, column].ravel())
        rows.append(row)
    customers = len(scores)
    return {
        "customers": customers,
        "suspects": rows,
        "carrier_threshold": level.carrier_threshold(),
        "log10_p_threshold": level.log_p() / math.log(10),
        # A suspect that does not differ from w0 (a pruned w0, say) gives score 0 to everybody.
        "pooled": {
            **_law(scores[:, scores.any(axis=0)].ravel()),
            "payload_p_at_most": _calibration(log_ps.ravel()),
        },
        "named": int(named.sum()),
        "innocents_ever_named": int(named.any(axis=1).sum()),
        # Clopper-Pearson for no event among independent customers: 1 - 0.05^(1/n).
        "upper_bound_95": None if named.any() else 1 - 0.05 ** (1 / customers),
    }


def _law(z: Scores) -> dict[str, Any]:
    cuts = {
        f"{cut:g}": {"share": float(np.mean(z >= cut)), "bound": math.exp(carrier_log_p(cut))}
        for cut in CUTS
    }
    return {
        "mean": float(z.mean()),
        "std": float(z.std()),
        "max": float(z.max()),
        "scores": z.size,
        "at_least": cuts,
    }


def _calibration(log_ps: Scores) -> dict[str, float]:
    return {f"{level:g}": float(np.mean(log_ps <= math.log(level))) for level in LEVELS}


def _highest_guilty(found: list[Suspect], readings: list[Reading], campaign: CampaignKey) -> Scores:
    """For contrast: the largest score of a customer whose copy did take part."""
    pairs = zip(found, readings, strict=True)
    best = [
        max(
            (carriers.score(campaign.customer(c), r.direction) for c in s.guilty), default=-math.inf
        )
        for s, r in pairs
    ]
    return np.array(best)


def _print(result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{result['customers']:,} innocents' carrier scores")
    for heading in ("suspect", "mean", "std", "max", "named", "guilty", "p<=.01"):
        table.add_column(heading, justify="left" if heading == "suspect" else "right")
    for row in result["suspects"]:
        table.add_row(
            row["suspect"],
            *(f"{row[key]:.3f}" for key in ("mean", "std", "max")),
            str(row["named"]),
            "" if row["guilty"] is None else f"{row['guilty']:.1f}",
            f"{row['payload_p_at_most']['0.01']:.4f}",
        )
    console.print(table)
    pooled = result["pooled"]
    console.print(
        f"Pooled over {pooled['scores']:,} scores: mean {pooled['mean']:.4f}, std "
        f"{pooled['std']:.4f}, max {pooled['max']:.2f}"
    )
    for cut, row in pooled["at_least"].items():
        console.print(f"  z >= {cut}: share {row['share']:.2e}, bound {row['bound']:.2e}")
    for level, share in pooled["payload_p_at_most"].items():
        console.print(f"  payload p <= {level}: share {share:.2e}")
    bound = result["upper_bound_95"]
    console.print(
        f"Named above z = {result['carrier_threshold']:.2f} or below log10 p = "
        f"{result['log10_p_threshold']:.2f}: {result['innocents_ever_named']} of "
        f"{result['customers']:,} innocents"
        + ("" if bound is None else f" (95 % upper bound {bound:.1e})")
    )


def _draw(path: Path, scores: Scores, log_ps: Scores, level: Level) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    pooled = np.sort(scores[:, scores.any(axis=0)].ravel())[::-1]
    positive = pooled[pooled > 0]
    left.semilogy(positive, np.arange(1, len(positive) + 1) / len(pooled), label="innocents")
    t = np.linspace(0, level.carrier_threshold() + 0.5, 200)
    left.semilogy(t, np.exp(-(t**2) / 2), "--", label="bound exp(-t²/2)")
    left.axvline(level.carrier_threshold(), color="#b3261e", label="accuses from here")
    left.set(xlabel="carrier score t", ylabel="share of scores of at least t", ylim=(1e-12, 2))
    left.legend()
    p = np.sort(np.exp(log_ps.ravel()))
    right.loglog(p, np.arange(1, len(p) + 1) / len(p), label="innocents")
    ends = np.array([1 / len(p), 1.0])
    right.loglog(ends, ends, "--", label="bound u")
    right.set(xlabel="payload p-value u", ylabel="share of p-values of at most u")
    right.legend()
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path, help="owner's home")
    parser.add_argument("run", type=Path, help="run folder with copies/ and run.json")
    parser.add_argument("--customers", type=int, default=10_000, help="never issued anything")
    parser.add_argument("--fine-tune", metavar="DATA", help="also fine-tune a copy on this source")
    parser.add_argument("--passphrase-file", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG")
    arguments = parser.parse_args()
    console, progress = Console(), Console(stderr=True)

    home = OwnerHome.open(arguments.home, read_passphrase_file(arguments.passphrase_file))
    model_id = json.loads((arguments.run / "run.json").read_text())["model_id"]
    model = home.vault.load(model_id, home.registry.models()[model_id])
    mark, campaign = model.mark(home.key), model.key(home.key)
    # A slash cannot occur in a customer's name: none of these can ever have been issued anything.
    keys = [campaign.customer(f"innocent/{i}") for i in range(arguments.customers)]

    found = list(suspects(arguments.run, model, fine_tune=arguments.fine_tune))
    readings = [
        extraction.read(mark, suspect.weights)
        for suspect in track(found, "Suspects", console=progress)
    ]
    found, readings = with_later_stages(found, readings, campaign)
    scores = carrier_scores(readings, keys, len(readings[0].direction), progress)
    log_ps = payload_log_ps(readings, keys, mark, progress)
    level = Level(DEFAULT_BOUND, len(keys), verifying.HYPOTHESES)
    result = judge(found, scores, log_ps, level, _highest_guilty(found, readings, campaign))
    _print(result, console)
    if arguments.json:
        document = {
            "benchmark": FORMAT,
            "model_id": model_id,
            "marked_weights": mark.layout.size,
            "code_length": model.code.length,
            **result,
            "versions": versions(),
        }
        files.write_json(arguments.json, document, mode=0o644)
    if arguments.plot:
        _draw(arguments.plot, scores, log_ps, level)
    return 1 if result["named"] else 0


if __name__ == "__main__":
    sys.exit(main())
