"""The results of ``robustness.py`` as figures, and as a table with what each row must show."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import robustness_claims as claims
from benchmarks.robustness_claims import Claim, Figures
from smdl_flower.bench import efficiency, summary
from smdl_flower.bench.plan import CONTROLS, UNALTERED, Row
from smdl_flower.bench.record import Result

LARGEST_MEAN_DROP, LARGEST_DROP = 0.3, 0.6  # points, over copies
DISTILLED = ("distill", "distill-hard", "distill-across", "knockoff")
INNOCENT_STD = (0.98, 1.02)
HEADINGS = (
    "row", "at least", "z mean", "z least", "BER mean", "BER worst", "named", "points lost", "eta",
    "trials", "holds",
)  # fmt: skip


def of_network(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return all figures of one network."""
    claimed = [*claims.SINGLE, *claims.COALITIONS]
    others = [Claim((row,)) for row in (*claims.other_coalitions(), *claims.catalogue())]
    etas = _efficiencies(runs)
    rows = [
        {**line, "claimed": claim in claimed}
        for claim in (*claimed, *others)
        for line in _lines(claim, runs, etas)
    ]
    return {
        "seeds": [run["seed"] for run in runs],
        "drops": _drops(runs),
        "rows": rows,
        "survivors": _survivors(runs),
        "innocents": _innocents(runs),
        "innocents_named": sum(row["innocents_named"] for row in rows),
        "innocents_compared": sum(
            result["innocents"] for _, row in _rows(runs) for result in row["results"]
        ),
    }


def _rows(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    for run in runs:
        for bench in run["benches"].values():
            for row in bench["rows"]:
                yield run, row


def _lines(
    claim: Claim, runs: Sequence[Mapping[str, Any]], etas: Mapping[str, list[Any]]
) -> Iterator[dict[str, Any]]:
    for row in claim.rows:
        found = [
            (Result.from_json(result), _whole(run))
            for run, tried in _rows(runs)
            if Row(tried["attack"], tried["settings"], tried["copies"]) == row
            for result in tried["results"]
        ]
        if not found:
            continue
        figures = claims.figures(found)
        yield {
            "attack": row.attack,
            "settings": dict(row.settings),
            "copies": row.copies,
            "at_least": claim.wanted,
            "holds": claim.holds(figures) if claim.holds else None,
            "efficiency": etas.get(_name(row)),
            **_numbers(figures),
        }


def _whole(run: Mapping[str, Any]) -> dict[str, float]:
    """The z of each customer's unaltered copy in this run."""
    rows = [row for bench in run["benches"].values() for row in bench["rows"]]
    return {
        customer: z
        for row in rows
        if row["attack"] == UNALTERED
        for result in row["results"]
        for customer, z in result["guilty_scores"].items()
    }


def _numbers(figures: Figures) -> dict[str, Any]:
    def of(values: Sequence[float], statistic: Any) -> float | None:
        return float(statistic(values)) if len(values) else None

    return {
        "z_mean": of(figures.z, np.mean),
        "z_least": of(figures.z, np.min),
        "z_kept_mean": of(figures.kept, np.mean),
        "z_kept_least": of(figures.kept, np.min),
        "bit_errors_mean": of(figures.bit_errors, np.mean),
        "bit_errors_worst": of(figures.bit_errors, np.max),
        "points_lost_mean": of(figures.drops, np.mean),
        "points_lost_least": of(figures.drops, np.min),
        "guilty": figures.guilty,
        "named": figures.named,
        "full_trials": figures.full_trials,
        "trials": figures.trials,
        "innocents_named": figures.innocents_named,
    }


def _efficiencies(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The efficiency of each coalition row, one per base model."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        benches = list(run["benches"].values())
        if not benches:
            continue
        rows = [row for bench in benches for row in bench["rows"]]
        whole = {"identity": benches[0]["identity"], "rows": rows}
        for row, value in zip(rows, efficiency.per_row(whole), strict=True):
            if value:
                name = _name(Row(row["attack"], row["settings"], row["copies"]))
                found.setdefault(name, []).append({"seed": run["seed"], **asdict(value)})
    return found


def _name(row: Row) -> str:
    return " ".join(
        filter(None, (row.attack, summary.settings_text(row.settings), str(row.copies)))
    )


def _drops(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Points of accuracy that the copies lost against their base model, as issued."""
    drops = [
        100 * (run["run"]["base_accuracy"] - copy["accuracy"])
        for run in runs
        for copy in run["run"]["copies"]
    ]
    return {
        "copies": len(drops),
        "base_accuracy": [run["run"]["base_accuracy"] for run in runs],
        "mean": float(np.mean(drops)),
        "worst": float(np.max(drops)),
        "holds": float(np.mean(drops)) <= LARGEST_MEAN_DROP and max(drops) <= LARGEST_DROP + 1e-9,
    }


def _survivors(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Attacks on one copy that keep the thief within 5 points: who was not named, and why."""
    tried, missed, distilled = 0, [], []
    for run, row in _rows(runs):
        if row["block"] not in ("A", "B") or row["attack"] in CONTROLS:
            continue
        for result in map(Result.from_json, row["results"]):
            if result.exit_code is None or summary.destroyed(result):
                continue
            named = [trace.customer for trace in result.traces] == list(result.guilty)
            label = f"{_name(Row(row['attack'], row['settings']))} (seed {run['seed']})"
            if row["attack"] in DISTILLED:
                distilled.append(f"{label}: {'named' if named else 'not named'}")
                continue
            tried += 1
            if not named or result.wrongly_named:
                missed.append(label)
    attacks = {r["attack"] for _, r in _rows(runs) if r["block"] in ("A", "B")}
    return {
        "attacks": len(attacks),
        "trials": tried,
        "missed": missed,
        "distilled": distilled,
        "holds": not missed if tried else None,
    }


def _innocents(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The law of innocents' carrier scores, suspect by suspect."""
    rows = [{"seed": run["seed"], **row} for run in runs for row in run["innocents"]]
    if not rows:
        return {"suspects": 0, "holds": None}
    deviations, highest = [row["std"] for row in rows], [row["max"] for row in rows]
    pairs = sum(row["customers"] for row in rows)
    # P(any score >= t) <= pairs exp(-t^2/2): below this with a chance of 99 %.
    bound = math.sqrt(2 * math.log(pairs / 0.01))
    low, high = INNOCENT_STD
    return {
        "suspects": len(rows),
        "pairs": pairs,
        "std": [min(deviations), max(deviations)],
        "max": max(highest),
        "max_bound": bound,
        "rows": rows,
        "holds": min(deviations) >= low and max(deviations) <= high and max(highest) <= bound,
    }


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print one table per network."""
    for name, network in document["networks"].items():
        seeds = ", ".join(map(str, network["seeds"]))
        table = Table(title=f"{name}: base models with seeds {seeds}; code {document['commit']}")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right")
        for row in network["rows"]:
            if row["claimed"] or row["efficiency"]:
                table.add_row(*_cells(row), style="" if row["holds"] in (True, None) else "red")
        console.print(table)
        for line in _closing(network):
            console.print(line, highlight=False, markup=False)


def _cells(row: Mapping[str, Any]) -> list[str]:
    kept = f" ({row['z_kept_mean']:.0%})" if row["z_kept_mean"] is not None else ""
    etas = [e["eta"] for e in row["efficiency"] or ()]
    return [
        _name(Row(row["attack"], row["settings"], row["copies"])),
        row["at_least"],
        _figure(row["z_mean"], "{:.1f}") + kept,
        _figure(row["z_least"], "{:.1f}"),
        _figure(row["bit_errors_mean"], "{:.1%}"),
        _figure(row["bit_errors_worst"], "{:.1%}"),
        f"{row['named']} of {row['guilty']}" if row["guilty"] else "-",
        _figure(row["points_lost_mean"], "{:.1f}"),
        f"{min(etas):.2f}" if etas else "",
        str(row["trials"]),
        {True: "yes", False: "NO", None: ""}[row["holds"]],
    ]


def _closing(network: Mapping[str, Any]) -> Iterator[str]:
    drops, survivors, innocents = network["drops"], network["survivors"], network["innocents"]
    yield (
        f"Accuracy lost over {drops['copies']} copies: mean {drops['mean']:.2f} (<= "
        f"{LARGEST_MEAN_DROP}), worst {drops['worst']:.2f} points (<= {LARGEST_DROP}): "
        f"{_word(drops['holds'])}. Base models: "
        + ", ".join(f"{a:.1%}" for a in drops["base_accuracy"])
    )
    yield (
        f"{survivors['attacks']} attacks on one copy, {survivors['trials']} trials within 5 points "
        f"(distillation apart): right customer alone named in all but {len(survivors['missed'])}: "
        f"{_word(survivors['holds'])}. {'; '.join(survivors['missed'])}"
    )
    yield f"Distillation: {'; '.join(survivors['distilled'])}"
    yield (
        f"Innocents named in all verdicts: {network['innocents_named']} of "
        f"{network['innocents_compared']:,} compared"
    )
    if innocents["suspects"]:
        low, high = innocents["std"]
        yield (
            f"{INNOCENT_TEXT.format(**innocents)} std {low:.3f} to {high:.3f} "
            f"(.98 to 1.02), max {innocents['max']:.2f} (bound {innocents['max_bound']:.2f}): "
            f"{_word(innocents['holds'])}"
        )


INNOCENT_TEXT = "Never-issued customers x {suspects} suspects, {pairs:,} scores:"


def _word(holds: bool | None) -> str:
    return {True: "holds", False: "DOES NOT HOLD", None: "not measured"}[holds]


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
