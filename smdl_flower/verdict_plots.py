"""What a verdict's page draws: scores of all customers, of decoys, and bits that agree."""

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

from smdl_flower import page
from smdl_flower.evidence import Verdict
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.decoys import EDGES, DecoySummary

SIZE, FLAT = (4.9, 2.2), (4.9, 1.3)  # inches: legible on a phone, too
LEAST_BITS = 16  # to be drawn
LINEAR = 10.0  # of the scale of scores


@dataclass(frozen=True)
class Plots:
    """SVG for the page; empty where there is nothing to draw."""

    scores: Markup | str
    decoys: Markup | str
    agreement: Markup | str


def of(verdict: Verdict) -> Plots:
    """Return the plots of a verdict."""
    values = _values(verdict)
    named = "named" if verdict.names_somebody else "nobody named"
    return Plots(
        page.plot(
            _draw_scores,
            verdict,
            size=SIZE,
            says=f"Scores of {len(values)} customers, from {min(values):.1f} to {max(values):.1f}; "
            f"somebody is named from {threshold(verdict):.1f} on ({named}).",
        )
        if values
        else "",
        of_decoys(verdict.decoys) if verdict.decoys else "",
        page.plot(
            _draw_agreement,
            verdict,
            size=FLAT,
            says=f"{verdict.payload.matching_bits} of {len(verdict.payload.bits)} agree.",
        )
        if len(verdict.payload.bits) >= LEAST_BITS
        else "",
    )


def of_decoys(decoys: DecoySummary) -> Markup | str:
    """Return the histogram of decoys' scores; empty of a summary without one."""
    if not decoys.histogram:
        return ""
    says = (
        f"Histogram of {decoys.count} decoys' scores: mean {decoys.mean:.2f}, highest "
        f"{decoys.highest:.1f}."
    )
    return page.plot(_draw_decoys, decoys, size=SIZE, says=says)


def threshold(verdict: Verdict) -> float:
    """Return the score from which somebody is named; infinite if no score would do."""
    if verdict.word_scores:
        return verdict.word_scores.accuses_from
    level = Level(verdict.max_false_accusation, verdict.words, verdict.hypotheses)
    return level.carrier_threshold()


def _values(verdict: Verdict) -> tuple[float, ...]:
    return verdict.word_scores.values if verdict.word_scores else verdict.carrier_scores


def _draw_scores(axes: Axes, verdict: Verdict) -> None:
    """All customers' scores, and where innocents' lie."""
    scores, names_from = np.asarray(_values(verdict)), threshold(verdict)
    axes.axvspan(-3, 3, color=page.PLAIN, alpha=0.25, linewidth=0)
    axes.text(0, 1.03, "99.7 % of innocents", ha="center", va="bottom", fontsize=9)
    # The stronger the score, the farther up, so that points do not hide each other.
    rows = np.linspace(0.12, 0.88, len(scores)) if len(scores) > 1 else np.array([0.5])
    named = scores >= names_from
    axes.plot(scores[~named], rows[~named], "o", ms=5, mfc="none", color=page.MARK)
    axes.plot(scores[named], rows[named], "D", ms=6, color=page.THRESHOLD)
    right = max(1.3 * float(scores.max()), 12.0)
    if math.isfinite(names_from):
        axes.axvline(names_from, color=page.THRESHOLD, linestyle="--", linewidth=1.3)
        says = f" named from {names_from:.1f}"
        axes.text(names_from, 1.03, says, color=page.THRESHOLD, va="bottom", fontsize=9)
        right = max(right, 2 * names_from)
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.6)
    axes.set_xticks([0, 5, *(scale * digit for scale in (10, 100, 1000) for digit in (1, 3))])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.set(xlim=(min(-5.0, 1.2 * float(scores.min())), right), ylim=(0, 1), yticks=[])
    axes.set_xlabel("score (standard deviations of an innocent's)")


def _draw_decoys(axes: Axes, decoys: DecoySummary) -> None:
    """How many decoys scored what, and what chance gives at most."""
    width = float(EDGES[1] - EDGES[0])
    left = np.concatenate([[EDGES[0] - width], EDGES])
    axes.bar(left, decoys.histogram, width, align="edge", color=page.MARK, alpha=0.6)
    grid = np.linspace(-5, 5, 201)
    chance = decoys.count * width * np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    axes.plot(grid, chance, color="#1c1e21", linewidth=1.2, label="what chance gives")
    axes.set(xlabel="score of a decoy", ylabel="decoys", xlim=(-5, 5))
    axes.legend(fontsize=9, frameon=False, loc="upper right")


def _draw_agreement(axes: Axes, verdict: Verdict) -> None:
    """Bits that agree, on a line from none to all, and where an innocent's lie."""
    payload = verdict.payload
    count, known = len(payload.bits), sum(bit in "01" for bit in payload.bits)
    reach = 1.5 * math.sqrt(known)  # three standard deviations of fair bits
    axes.axvspan(known / 2 - reach, known / 2 + reach, color=page.PLAIN, alpha=0.25, linewidth=0)
    axes.text(known / 2, 1.05, "99.7 % of innocents", ha="center", va="bottom", fontsize=9)
    colour = page.THRESHOLD if payload.best_match else page.MARK
    axes.plot([payload.matching_bits], [0.5], "D", ms=8, color=colour)
    axes.set(xlim=(0, 1.02 * count), ylim=(0, 1), yticks=[])
    axes.set_xlabel(f"of {count} {'answers' if verdict.queries else 'bits'} agree")
