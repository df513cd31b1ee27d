"""From results to the lines of a table, and to the totals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from smdl_flower.bench.plan import CONTROLS, Row
from smdl_flower.bench.record import Result

LARGEST_DROP = 0.05  # a thief who loses more has destroyed what it stole


@dataclass(frozen=True)
class Line:
    """One row's results in numbers; None where there is nothing to measure.

    Attributes:
        attack: Name.
        settings: As text.
        copies: Used for each stolen model.
        block: Of the catalogue; None for a control.
        accuracy: Mean of what the thief keeps.
        drop: Mean loss of accuracy against the copies.
        guilty: Customers who should be named, over all results.
        named: Those of them who were.
        wrongly_named: Everybody else who was named.
        least_score: Smallest carrier score of a guilty customer, named or not.
        weakest_log10_p: Largest log10 p of a named customer's strongest witness.
        bit_error_rate: Mean over results of a single copy.
        eta: Of a coalition, see :mod:`efficiency`; only in a complete bench.
        remark: What else must be known.
    """

    attack: str
    settings: str
    copies: int
    block: str | None
    accuracy: float | None
    drop: float | None
    guilty: int
    named: int
    wrongly_named: int
    least_score: float | None
    weakest_log10_p: float | None
    bit_error_rate: float | None
    eta: float | None
    remark: str


def lines(document: Mapping[str, Any]) -> list[Line]:
    """Return one line per row of a ``bench.json``."""
    return [_line(row, results_of(row)) for row in document["rows"]]


def results_of(row: Mapping[str, Any]) -> list[Result]:
    """Return the results of one row of a ``bench.json``."""
    return [Result.from_json(result) for result in row["results"]]


def destroyed(result: Result) -> bool:
    """Return whether the thief lost more than 5 points of accuracy: no success.

    Example:
        >>> destroyed(Result(("a",), None, accuracy_before=0.98, accuracy_after=0.92))
        True
    """
    return drop_of(result) > LARGEST_DROP


def drop_of(result: Result) -> float:
    """Return the loss of accuracy against the copies, 0 where there is none to compare."""
    if result.accuracy_before is None or result.accuracy_after is None:
        return 0.0
    return result.accuracy_before - result.accuracy_after


def totals(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the whole bench, with the bound that the trials allow.

    An innocent is counted once for each verdict. Verdicts on one customer's copies are not quite
    independent of each other, so the bound is that of this bench and no claim about others.
    """
    rows = [(row, result) for row in document["rows"] for result in results_of(row)]
    innocents = sum(result.innocents for _, result in rows)
    wrong = sum(len(result.wrongly_named) for _, result in rows)
    attacked = [r for row, r in rows if row["attack"] not in CONTROLS and r.exit_code is not None]
    survivors = [result for result in attacked if not destroyed(result)]
    return {
        "results": len(rows),
        "innocents": innocents,
        "wrongly_named": wrong,
        "wrongly_named_upper_95": upper_bound(wrong, innocents),
        "guilty": sum(len(r.guilty) for r in survivors),
        "named": sum(len(r.traces) for r in survivors),
        "destroyed": len(attacked) - len(survivors),
        "not_tried": sum(r.exit_code is None for _, r in rows),
    }


def upper_bound(events: int, trials: int) -> float:
    """Return the one-sided 95 % Clopper-Pearson bound on a rate.

    Example:
        >>> round(upper_bound(0, 3000), 6)  # about 3 / trials
        0.000998
    """
    return float(stats.beta.ppf(0.95, events + 1, trials - events)) if events < trials else 1.0


def closing(figures: Mapping[str, Any]) -> str:
    """Return the totals in two sentences."""
    innocents = (
        f"{figures['wrongly_named']} of {figures['innocents']:,} innocents named (95 % upper bound "
        f"{figures['wrongly_named_upper_95']:.1e})"
    )
    guilty = f"{figures['named']} of {figures['guilty']} guilty named where the model survived"
    destroyed_text = f"stolen models destroyed by their attack: {figures['destroyed']}"
    return f"{innocents}. {guilty}; {destroyed_text}."


def title(line: Line) -> str:
    """Return a row's name: attack, settings, number of copies if several.

    Example:
        >>> row = {"attack": "average", "settings": {}, "copies": 5, "block": "C", "results": []}
        >>> title(lines({"rows": [row]})[0])
        'average x5'
    """
    copies = f"x{line.copies}" if line.copies > 1 else ""
    return " ".join(word for word in (line.attack, line.settings, copies) if word)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as ``key=value`` words."""
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _line(about: Mapping[str, Any], results: Sequence[Result]) -> Line:
    row = Row(about["attack"], about["settings"], about["copies"])
    traces = [trace for result in results for trace in result.traces]
    scores = [score for result in results for score in result.guilty_scores.values()]
    rates = [r.bit_error_rate for r in results if r.bit_error_rate is not None]
    kept = [r.accuracy_after for r in results if r.accuracy_after is not None]
    return Line(
        attack=row.attack,
        settings=settings_text(row.settings),
        copies=row.copies,
        block=about["block"],
        accuracy=_mean(kept),
        drop=_mean([drop_of(r) for r in results if r.accuracy_before is not None]),
        guilty=sum(len(r.guilty) for r in results if r.exit_code is not None),
        named=len(traces),
        wrongly_named=sum(len(r.wrongly_named) for r in results),
        least_score=min(scores, default=None),
        weakest_log10_p=max((t.log10_p for t in traces), default=None),
        bit_error_rate=_mean(rates),
        eta=(about.get("efficiency") or {}).get("eta"),
        remark=_remark(results),
    )


def _remark(results: Sequence[Result]) -> str:
    remarks = []
    broken = sum(destroyed(result) for result in results)
    if broken:
        remarks.append(f"destroys the model{_share(broken, len(results))}")
    for code, what in ((11, "inconclusive"), (3, "refused")):
        reasons = [result.reason for result in results if result.exit_code == code]
        if reasons:
            remarks.append(f"{what}{_share(len(reasons), len(results))}: {reasons[0]}")
    remarks += [result.reason for result in results if result.exit_code is None][:1]
    return "; ".join(remarks)


def _share(count: int, of: int) -> str:
    return "" if count == of else f" ({count} of {of})"


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
