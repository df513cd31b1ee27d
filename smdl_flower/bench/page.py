"""``bench.html``: one self-contained page, in the look of the other reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from smdl_flower import files, page
from smdl_flower.bench import summary
from smdl_flower.bench.record import Result

# Colours that are told apart without red and green; marks differ too.
BLOCKS = {
    "A": ("alters weights", page.MARK, "o"),
    "B": ("keeps the function", "#c77700", "s"),
    "C": ("combines copies", "#6b3fa0", "^"),
}
MOST_LABELS = 12  # of coalition attacks; those that hide nobody go without first


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write the page of a complete ``bench.json``."""
    coalitions = [row for row in document["rows"] if row["block"] == "C"]
    tried = [row for row in document["rows"] if row["block"]]
    text = page.render(
        {"bench": _BENCH},
        "bench",
        title=f"Bench of scenario {document['identity']['scenario']}",
        identity=document["identity"],
        totals=document["totals"],
        closing=summary.closing(document["totals"]),
        lines=summary.lines(document),
        figure=_figure,
        kept_plot=page.plot(_draw_kept, tried) if tried else "",
        coalitions_plot=page.plot(_draw_coalitions, coalitions) if coalitions else "",
        largest_drop=summary.LARGEST_DROP,
    )
    files.write(path, text.encode())


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _draw_kept(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """What a thief pays in accuracy for how much evidence is left; one point per result."""
    thresholds, evidence_found = [], []
    for block, (what, colour, mark) in BLOCKS.items():
        results = [r for row in rows if row["block"] == block for r in summary.results_of(row)]
        points = [(_drop(r), _log10_p(r)) for r in results if r.exit_code is not None]
        evidence_found += [p[1] for p in points]
        thresholds += [trace.threshold for r in results for trace in r.traces]
        for fill, chosen in (
            (colour, [p for p in points if p[1] < 0]),
            ("none", [p for p in points if p[1] == 0]),
        ):
            axes.plot(*_columns(chosen), mark, color=colour, mfc=fill, ms=5)
        if points:
            axes.plot([], [], mark, color=colour, ms=5, label=f"{block}: {what}")
    if thresholds:
        axes.axhline(max(thresholds), color=page.THRESHOLD, linewidth=1, label="accuses below")
    axes.axvline(100 * summary.LARGEST_DROP, color=page.PLAIN, linestyle=":", linewidth=1)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=2 * min([-10.0, *evidence_found]), top=4)  # nothing is above zero
    axes.set(xlabel="accuracy the thief loses, points", ylabel="log10 p of an innocent")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="upper center", fontsize=8, frameon=False, bbox_to_anchor=(0.5, 1.2), ncols=4
        )


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _drop(result: Result) -> float:
    return 100 * summary.drop_of(result)


def _log10_p(result: Result) -> float:
    """Of the guilty customer with the weakest evidence; 0 if one was not named."""
    if len(result.traces) < len(result.guilty):
        return 0.0
    return max((trace.log10_p for trace in result.traces), default=0.0)


def _draw_coalitions(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    shares: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        results = [r for r in summary.results_of(row) if r.exit_code is not None]
        if results:
            name = f"{row['attack']} {summary.settings_text(row['settings'])}".strip()
            named = [len(r.traces) / len(r.guilty) for r in results]
            shares.setdefault(name, []).append((row["copies"], 100 * float(np.mean(named))))
    missed = [name for name, points in shares.items() if min(p[1] for p in points) < 100]
    for number, (name, points) in enumerate(shares.items()):
        sizes, named_share = zip(*sorted(points), strict=True)
        beside = np.array(sizes) + 0.04 * (number - len(shares) / 2)  # not on each other
        (drawn,) = axes.plot(beside, named_share, "o-", ms=5, linewidth=1.2)
        if name in missed[:MOST_LABELS] or len(shares) <= MOST_LABELS:
            drawn.set_label(name)
        else:
            drawn.set_color(page.PLAIN)
    axes.set(xlabel="copies combined", ylabel="traitors named, %", ylim=(-5, 105))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


_BENCH = """{% extends "base" %}{% block body %}
<style>.wide { font-size: .8rem; } .wide td, .wide th { padding: .2rem .35rem; }
.wrong { background: #fbf1f0; }</style>
<p class="lead {{ "named" if totals.wrongly_named }}">{{ closing }}</p>
<p>Copies of base model <code>{{ identity.model_id }}</code> were altered as a thief would, and each
result was verified from its file with the owner's home, against {{ identity.customers }} customers
at a bound of {{ "%g" | format(identity.max_false_accusation) }}. Each row was tried on
{{ identity.customers_per_row }} customer(s), attacks that draw at random with
{{ identity.seeds }} seed(s).</p>
{% if kept_plot %}<h2>What evidence is left for what the thief pays</h2>{{ kept_plot }}
<p class="small">One point per stolen model, at the weakest evidence of its guilty customers; hollow
at zero: one of them was not named. Right of the dotted line a thief loses more than
{{ "%.0f" | format(100 * largest_drop) }} points of accuracy: the model is destroyed, no success.
Logarithmic beyond -10.</p>{% endif %}
{% if coalitions_plot %}<h2>Coalitions</h2>{{ coalitions_plot }}
<p class="small">Points are set a little beside each other. Grey: other attacks.</p>{% endif %}
<h2>All attacks</h2>
<table class="wide"><tr><th>attack</th><th>copies</th><th>accuracy kept</th><th>named</th>
<th>wrongly</th><th>least z</th><th>weakest log10 p</th><th>bit errors</th><th>eta</th></tr>
{% for line in lines %}<tr{% if line.wrongly_named %} class="wrong"{% endif %}>
<td>{{ line.attack }} {{ line.settings }}{% if line.remark %}<br>
<span class="small">{{ line.remark | truncate(100) }}</span>{% endif %}</td>
<td>{{ line.copies }}</td>
<td>{{ figure(line.accuracy, "{:.1%}") }}</td>
<td>{{ "%d of %d" | format(line.named, line.guilty) if line.guilty else "-" }}</td>
<td>{{ line.wrongly_named }}</td><td>{{ figure(line.least_score, "{:.0f}") }}</td>
<td>{{ figure(line.weakest_log10_p, "{:.0f}") }}</td>
<td>{{ figure(line.bit_error_rate, "{:.1%}") }}</td>
<td>{{ figure(line.eta, "{:.2f}") }}</td></tr>{% endfor %}</table>
<p class="small">Least z: of the guilty, named or not; weakest log10 p: of those named. Eta: the
coalition that the least z would still suffice for, as a share of the largest that theory allows at
the noise of this attack (docs/attacks.md); extrapolated where more copies were not tried. An
innocent is counted once for each verdict; verdicts on copies of one run are not quite independent,
so the upper bound is that of this bench.</p>
<h2>What is not shown</h2><ul>
<li>Other thieves: these attacks know no key and only the copies that they combine.</li>
<li>Other models, data or training runs than this one.</li></ul>
<p class="small">Code <code>{{ identity.code_sha256[:16] }}</code>, plan
<code>{{ identity.plan_sha256[:16] }}</code>.
{% for key, value in identity.versions.items() %}{{ key }} {{ value }}
{{ "" if loop.last else "&middot;" | safe }} {% endfor %}</p>{% endblock %}
"""
