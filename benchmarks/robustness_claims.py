"""The rows that white-box tracing must hold, what each must show, and whether it did.

Every figure is a mean over trials: base models x customers, each trial with a seed of its own. The
worst trial is shown beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smdl_flower.bench import plan, summary
from smdl_flower.bench.plan import BASE_MODEL, NEW_MODEL, UNALTERED, Row
from smdl_flower.bench.record import Result

Reference = Mapping[str, float]  # z of each customer's unaltered copy, of one base model


@dataclass(frozen=True)
class Figures:
    """What the trials of one row measured.

    Attributes:
        z: Carrier score of each guilty customer in each trial.
        kept: z over the z of the same customer's unaltered copy; single copies only.
        bit_errors: Share of wrong payload bits, of each trial with one copy.
        drops: Accuracy that the thief lost, in points.
        guilty: How many should have been named.
        named: How many of them were.
        full_trials: Trials in which all were named.
        trials: All.
        innocents_named: Over all trials.
    """

    z: Sequence[float]
    kept: Sequence[float]
    bit_errors: Sequence[float]
    drops: Sequence[float]
    guilty: int
    named: int
    full_trials: int
    trials: int
    innocents_named: int

    @property
    def share(self) -> float:
        """Share of the guilty who were named."""
        return self.named / self.guilty if self.guilty else 0.0


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    Attributes:
        rows: All must hold.
        wanted: In words; empty if it is only reported.
        holds: The same as a test of a row's figures.
    """

    rows: tuple[Row, ...]
    wanted: str = ""
    holds: Callable[[Figures], bool] | None = None


def figures(results: Sequence[tuple[Result, Reference]]) -> Figures:
    """Gather the trials of a row, each with the scores of its run's unaltered copies."""
    tried = [(r, whole) for r, whole in results if r.exit_code is not None]
    single = [(r, whole) for r, whole in tried if len(r.guilty) == 1 and r.guilty_scores]
    return Figures(
        z=[z for r, _ in tried for z in _scores(r)],
        kept=[r.guilty_scores[r.guilty[0]] / whole[r.guilty[0]] for r, whole in single if whole],
        bit_errors=[r.bit_error_rate for r, _ in tried if r.bit_error_rate is not None],
        drops=[100 * summary.drop_of(r) for r, _ in tried],
        guilty=sum(len(r.guilty) for r, _ in tried),
        named=sum(len(r.traces) for r, _ in tried),
        full_trials=sum(len(r.traces) == len(r.guilty) for r, _ in tried),
        trials=len(tried),
        innocents_named=sum(len(r.wrongly_named) for r, _ in tried),
    )


def _scores(result: Result) -> list[float]:
    # A suspect that could not be compared gives no evidence at all.
    return [result.guilty_scores.get(customer, 0.0) for customer in result.guilty]


def strong(z: float, bit_errors: float) -> tuple[str, Callable[[Figures], bool]]:
    """Return what a row of single copies must show on average."""
    return (
        f"z >= {z:g}, bit errors <= {bit_errors:.0%}",
        lambda f: float(np.mean(f.z)) >= z and float(np.mean(f.bit_errors)) <= bit_errors,
    )


def keeps(share: float, *, no_bit_errors: bool = False) -> tuple[str, Callable[[Figures], bool]]:
    """Return that a rewritten copy must be read nearly as well as before it was."""
    return (
        f">= {share:.0%} of z" + (", no bit errors" if no_bit_errors else ""),
        lambda f: (
            float(np.mean(f.kept)) >= share and not (no_bit_errors and max(f.bit_errors) > 0.0)
        ),
    )


def least_z(z: float) -> tuple[str, Callable[[Figures], bool]]:
    """Return that the mean score must reach this much."""
    return f"z >= {z:g}", lambda f: float(np.mean(f.z)) >= z


def all_named(size: int) -> tuple[str, Callable[[Figures], bool]]:
    """Return that a whole coalition must be named, in every trial."""
    return f"{size} of {size} named", lambda f: f.named == f.guilty


def named_on_average(count: int, size: int) -> tuple[str, Callable[[Figures], bool]]:
    """Return that this many of a coalition must be named on average."""
    return f">= {count} of {size} named", lambda f: f.share >= count / size


LIGHT = (
    Row("float16"),
    Row("quantize", {"bits": 8}),
    Row("quantize", {"bits": 4}),
    Row("prune", {"fraction": 0.2}),
    Row("prune", {"fraction": 0.5}),
    Row("noise", {"level": 0.3}),
    Row("fine-tune", {"epochs": 30, "learning-rate": 0.03}),
)
PRUNED = (
    Row("prune", {"fraction": 0.8}),
    Row("prune-fine-tune", {"fraction": 0.8, "epochs": 10}),
)
NEGATIVES = ("modneg", "outlier", "randneg")

SINGLE = (
    Claim((Row(UNALTERED),), *strong(50, 0.0)),
    *(Claim((row,), *strong(50, 0.01)) for row in LIGHT),
    *(Claim((row,), *strong(40, 0.05)) for row in PRUNED),
    Claim((Row("prune-hide", {"fraction": 0.8}),), *least_z(40)),
    Claim((Row("overwrite", {"times": 2}),), *strong(40, 0.01)),
    Claim((Row("permute-rescale-fold"),), *keeps(0.95, no_bit_errors=True)),
    Claim((Row("obfuscate"),), *keeps(0.9)),
    Claim((Row("jam-limit"),), *least_z(20)),
    Claim((Row(BASE_MODEL, copies=0),)),
    Claim((Row(NEW_MODEL, copies=0),)),
)
COALITIONS = (
    Claim((Row("average", {}, 20),), *all_named(20)),
    Claim((Row("average-noise", {"level": 0.1}, 20),), *all_named(20)),
    Claim((Row("average-fine-tune", {"epochs": 10}, 20),), *all_named(20)),
    Claim((Row("average", {}, 50),), *named_on_average(45, 50)),
    Claim((Row("interleave", {}, 10),), *all_named(10)),
    Claim((Row("minimum", {}, 10),), *all_named(10)),
    *(Claim((Row(name, {}, 5),), *all_named(5)) for name in NEGATIVES),
    *(Claim((Row(name, {}, size),)) for size in (10, 20) for name in NEGATIVES),
)
LEAST_SIZE = 5  # of a coalition whose efficiency is reported


def other_coalitions() -> tuple[Row, ...]:
    """Return every coalition attack at the sizes that no claim is about, for its efficiency."""
    return _unclaimed(COALITIONS, lambda row: row.copies >= LEAST_SIZE)


def catalogue() -> tuple[Row, ...]:
    """Return every attack on one copy, blocks A and B, at all strengths of the full plan."""
    return _unclaimed(SINGLE, lambda row: row.copies == 1)


def _unclaimed(claims: Sequence[Claim], wanted: Callable[[Row], bool]) -> tuple[Row, ...]:
    claimed = [row for claim in claims for row in claim.rows]
    rows = [row for row in plan.full().rows if row.attack not in plan.CONTROLS and wanted(row)]
    return tuple(row for row in rows if row not in claimed)
