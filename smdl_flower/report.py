"""Reports for people: one self-contained HTML page per run and per verdict, printable."""

import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from smdl_flower import files, privacy_page
from smdl_flower.errors import ConfigError
from smdl_flower.evidence import Verdict, versions
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.flower import checkpoint
from smdl_flower.flower.incidents import grouped
from smdl_flower.flower.run_folder import RunFolder

MARK, THRESHOLD, PLAIN = "#1f5fa8", "#b3261e", "#8a8f98"


def write_run_report(run: Path) -> Path:
    """Write ``report.html`` of a run that has ended, or was cut off; return its path.

    Args:
        run: The run's folder; whatever is missing there is left out of the page.

    Raises:
        ConfigError: It is no run folder.
    """
    resolved = _document(run / "resolved.json")
    if resolved is None:
        raise ConfigError(f"{run}: no run folder, it has no readable resolved.json")
    folder = RunFolder(run)
    outcome = folder.outcome() or {
        "status": "interrupted",
        "incidents": grouped(folder.incidents()),
    }
    metrics = folder.metrics()
    privacy = _document(run / "privacy.json")
    copies = outcome.get("copies") or []
    page = _render(
        "run",
        title=f"Run of scenario {resolved['config']['scenario']}",
        outcome=outcome,
        copies=copies,
        issued=[copy for copy in copies if copy["path"]],
        last=metrics[-1] if metrics else {"round": 0},
        has_checkpoint=(run / checkpoint.DIRECTORY).is_dir(),
        folder=run.resolve(),
        accuracy_plot=plot(_draw_rounds, metrics) if metrics else "",
        copies_plot=plot(_draw_copies, outcome) if copies else "",
        resolved=resolved,
        privacy=privacy,
        spent=privacy_page.spent_rows(privacy) if privacy else [],
        attacks=privacy_page.attack_scores(run),
        epsilon_plot=plot(privacy_page.draw_epsilon, privacy)
        if privacy and privacy["epsilon"] is not None
        else "",
    )
    path = run / "report.html"
    files.write(path, page.encode())
    return path


def _document(path: Path) -> dict[str, Any] | None:
    """A JSON object that a run left; None if it did not get that far."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def write_verdict_report(verdict: Verdict, path: Path) -> None:
    """Write the page that explains a verdict, in plain words first."""
    page = _render(
        "verdict",
        title="Verdict on a suspect model",
        verdict=verdict,
        summary=verdict.summary(),
        bits=_groups_of(verdict.payload.bits, 16),
        scores_plot="" if verdict.queries else plot(_draw_scores, verdict),
        not_shown=verdict.not_shown,
        versions=versions(),
    )
    files.write(path, page.encode())


def plot(draw: Callable[[Axes, Any], None], data: Any) -> Markup:
    """Return what ``draw`` draws of ``data``, as SVG to put into a page."""
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, data)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704 - drawn here, from numbers only


def _draw_rounds(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    rounds = [line["round"] for line in metrics]
    axes.plot(rounds, [100 * line["accuracy"] for line in metrics], "o-", color=MARK)
    axes.set(xlabel="round", ylabel="accuracy of the global model, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _draw_copies(axes: Axes, outcome: Mapping[str, Any]) -> None:
    copies = [copy for copy in outcome["copies"] if copy["accuracy"] is not None]
    drops = [100 * (copy["accuracy"] - outcome["base_accuracy"]) for copy in copies]
    axes.bar(range(len(drops)), drops, color=MARK, width=0.6)
    axes.axhline(0.0, color=PLAIN, linewidth=1)
    if len(copies) <= 12:
        axes.set_xticks(range(len(copies)), [_plain(copy["customer"]) for copy in copies])
        axes.tick_params(axis="x", labelsize=8)
    reach = max([0.5, *map(abs, drops)]) * 1.2
    axes.set(ylabel="accuracy against\nthe base model, points", ylim=(-reach, reach))


def _draw_scores(axes: Axes, verdict: Verdict) -> None:
    """All customers' carrier scores against the law an innocent's score follows."""
    scores = np.asarray(verdict.carrier_scores)
    level = Level(verdict.max_false_accusation, verdict.words, verdict.hypotheses)
    threshold = level.carrier_threshold()
    axes.axvspan(-3, 3, color=PLAIN, alpha=0.25, label="where 99.7 % of innocents lie")
    axes.axvline(threshold, color=THRESHOLD, label=f"accuses from {threshold:.1f}")
    rows = np.linspace(0.2, 0.8, len(scores)) if len(scores) else scores
    axes.plot(scores, rows, "o", color=MARK, label="one customer each")
    axes.set_xscale("symlog", linthresh=10)
    axes.set(xlabel="carrier score z", yticks=[], ylim=(0, 1))
    axes.legend(loc="upper center", fontsize=8, frameon=False, bbox_to_anchor=(0.5, 1.25), ncols=3)


def _plain(text: str) -> str:
    return html.escape(text).replace("$", r"\$")  # "$" starts mathematics in matplotlib


def _groups_of(bits: str, size: int) -> list[str]:
    return [bits[i : i + size] for i in range(0, len(bits), size)]


def _render(name: str, **values: Any) -> str:
    pages = {"base": PAGE_TEMPLATE, "run": _RUN, "verdict": _VERDICT}
    loader = jinja2.DictLoader({**pages, "privacy": privacy_page.SECTION})
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["percent"] = _percent
    environment.filters["score"] = privacy_page.score_text
    environment.filters["guess"] = privacy_page.guess_text
    return environment.get_template(name).render(**values)


def _percent(value: float | None) -> str:
    return "not checked" if value is None else f"{value:.1%}"


# Templates are strings: Flower ships only .py files of this package to a SuperLink.
PAGE_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1e21; max-width: 46rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.lead { font-size: 1.15rem; border-left: 4px solid #1f5fa8; padding: .4rem 1rem;
  background: #f3f6fa; }
.named { border-color: #b3261e; background: #fbf1f0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #dfe2e6; }
th:first-child, td:first-child { text-align: left; }
code, .bits { font-family: ui-monospace, monospace; font-size: .85rem; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; } .small { color: #5a5f66; font-size: .88rem; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } }
</style></head><body><h1>{{ title }}</h1>{% block body %}{% endblock %}</body></html>
"""

_RUN = """{% extends "base" %}{% block body %}
{% if outcome.status == "completed" %}
<p class="lead">{{ outcome.rounds }} rounds of federated training gave a model with
{{ last.accuracy | percent }} accuracy on the public test images.
{% if outcome.where == "server" %}{{ issued | length }} of {{ copies | length }} customers
were issued a copy of their own.{% else %}Copies are to be issued elsewhere:
<code>{{ outcome.next }}</code>{% endif %}</p>
{% else %}
<p class="lead named">This run {{ "failed" if outcome.status == "failed" else "was cut off" }} after
round {{ last.round }} of {{ resolved.config["num-server-rounds"] }}; nobody was issued a copy.
{{ outcome.get("error") or "" }}</p>
{% if has_checkpoint %}<p>Its checkpoint is kept. To go on after round {{ last.round }}:
<code>--set resume-from={{ folder }}</code></p>{% endif %}
{% endif %}
{% if accuracy_plot %}<h2>Training</h2>{{ accuracy_plot }}{% endif %}
{% if copies %}
<h2>Copies</h2>{{ copies_plot }}
<table><tr><th>customer</th><th>accuracy</th><th>bits read back</th>
{% if copies[0].get("query_bits") is not none %}<th>bits in answers</th>{% endif %}
<th>carrier score</th><th>issued</th></tr>
{% for copy in copies %}<tr><td>{{ copy.customer }}</td>
<td>{{ copy.accuracy | percent }}</td><td>{{ copy.matching_bits }} of {{ outcome.code_length }}</td>
{% if copies[0].get("query_bits") is not none %}<td>{{ copy.query_bits }}</td>{% endif %}
<td>{{ "%.0f" | format(copy.carrier_score) }}</td>
<td>{{ "yes" if copy.path else copy.reason }}</td></tr>{% endfor %}</table>
{% if copies[0].get("imprint") %}
<h3>Images with a fingerprint in them</h3><table><tr><th>customer</th><th>bits in each</th>
<th>read back</th><th>PSNR, mean (least)</th><th>accuracy on them</th></tr>
{% for copy in copies %}<tr><td>{{ copy.customer }}</td><td>{{ copy.imprint.bits }}</td>
<td>{{ "%.2f" | format(100 * copy.imprint.bits_read) }} %</td>
<td>{{ "%.1f" | format(copy.imprint.psnr_mean) }} ({{ "%.1f" | format(copy.imprint.psnr_least) }})
dB</td><td>{{ copy.imprint.accuracy | percent }}</td></tr>{% endfor %}</table>
<p class="small">Each of {{ copies[0].imprint.images }} test images carries its customer's word,
invisibly. That shows that such images do the model no harm. It traces nobody: whoever alters an
image erases the word.</p>{% endif %}
{% if outcome.deliveries is defined %}<p>Delivered over Flower:
{{ outcome.deliveries | selectattr("delivered") | map(attribute="customer") | join(", ")
or "nobody" }}.
{% for d in outcome.deliveries if not d.delivered %}<br>To be handed over by other means:
{{ d.customer }} ({{ d.reason }}){% endfor %}</p>{% endif %}
<p class="small">Base model <code>{{ outcome.model_id }}</code>, accuracy
{{ outcome.base_accuracy | percent }}, {{ "{:,}".format(outcome.marked_weights) }} marked weights.
Each copy was read back from its file before it was recorded and released.</p>
{% endif %}
{% if outcome.get("incidents") %}
<h2>Replies that were not used as they were</h2>
<table><tr><th>node</th><th>participant, as it says</th><th>rounds</th><th>used</th>
<th>reason</th></tr>
{% for incident in outcome.incidents %}<tr><td>{{ incident.name or "" }}
<code>{{ incident.node }}</code></td><td>{{ incident.participant or "never said" }}</td>
<td>{{ incident.rounds | join(", ") }}</td><td>{{ "yes" if incident.used else "no" }}</td>
<td>{{ incident.reason }}</td></tr>
{% endfor %}</table>{% endif %}
{% if privacy %}{% include "privacy" %}{% endif %}
<h2>What is not shown</h2><ul>
<li>That a copy survives distillation into a new model: it does not.</li>
{% if not outcome.get("training_marked") %}
<li>That a participant who leaks a model of training is named: this run sent them unmarked.</li>
{% endif %}
<li>That the accuracy carries over to other images than these.</li></ul>
<h2>To run it again</h2>
<p class="small">{{ "%s s;" | format(outcome.wall_seconds) if outcome.wall_seconds is defined }}
code <code>{{ resolved.code_sha256[:16] }}</code>,
commit <code>{{ resolved.git_commit or "unknown" }}</code>.</p>
<table>{% for key, value in resolved.config.items() %}<tr><td><code>{{ key }}</code></td>
<td>{{ value }}</td></tr>{% endfor %}</table>
<p class="small">{% for key, value in resolved.versions.items() %}{{ key }} {{ value }}
{{ "" if loop.last else "&middot;" | safe }} {% endfor %}</p>{% endblock %}
"""

_VERDICT = """{% extends "base" %}{% block body %}
<p class="lead {{ "named" if verdict.names_somebody }}">{{ summary }}</p>
<p>Examined: <code>{{ verdict.suspect.path }}</code> ({{ verdict.suspect.kind }}), SHA-256
<code>{{ verdict.suspect.sha256 }}</code>. It was compared with the fingerprints of
{{ verdict.customers }} customers and of {{ verdict.broadcasts }} models sent in training,
{{ verdict.hypotheses }} tests each; model <code>{{ verdict.model_id or "none" }}</code>, alignment:
{{ verdict.alignment }}.</p>
{% if verdict.accused %}<h2>Evidence</h2>
<table><tr><th>customer</th><th>evidence</th><th>score</th><th>log10 p of an innocent</th>
<th>accuses below</th></tr>
{% for accusation in verdict.accused %}{% for witness in accusation.witnesses %}
<tr><td>{{ accusation.customer }}</td><td>{{ witness.label() }}</td>
<td>{{ "%.1f" | format(witness.score) }}</td><td>{{ "%.1f" | format(witness.log10_p) }}</td>
<td>{{ "%.1f" | format(witness.threshold) }}</td></tr>{% endfor %}{% endfor %}</table>{% endif %}
{% if verdict.participants %}<h2>Evidence</h2>
<table><tr><th>participant</th><th>node</th><th>run</th><th>round</th><th>score</th>
<th>log10 p of an innocent</th><th>accuses below</th></tr>
{% for sent in verdict.participants %}
<tr><td>{{ sent.who }}</td><td><code>{{ sent.node }}</code></td><td>{{ sent.run }}</td>
<td>{{ sent.round }}</td><td>{{ "%.1f" | format(sent.score) }}</td>
<td>{{ "%.1f" | format(sent.log10_p) }}</td><td>{{ "%.1f" | format(sent.threshold) }}</td></tr>
{% endfor %}</table>{% endif %}
{% if verdict.queries %}<h2>Questions</h2>
<p>Pool {{ verdict.queries.pool }}: {{ verdict.queries.images }} images, of which
{{ verdict.queries.one_of_two }} were answered with one of the two classes that tell copies apart;
{{ "with" if verdict.queries.probabilities else "without" }} probabilities. The SHA-256 above is
that of the answers.</p>{% else %}
<h2>All customers' scores</h2>{{ scores_plot }}{% endif %}
{% if verdict.decoys %}
<p class="small">{{ verdict.decoys.count }} decoys, customers who were never issued a copy, were
scored as well: mean {{ "%.2f" | format(verdict.decoys.mean) }}, standard deviation
{{ "%.2f" | format(verdict.decoys.deviation) }}, highest
{{ "%.1f" | format(verdict.decoys.highest) }}, as innocents must.</p>{% endif %}
{% if not verdict.queries %}
<p class="small">An innocent's score exceeds t with a probability of at most exp(-t&sup2;/2),
whatever was done to the model. The threshold shares the bound
{{ "%g" | format(verdict.max_false_accusation) }} among all customers, models sent in training and
tests. Logarithmic beyond 10.</p>{% endif %}
<h2>Bits read</h2><p class="bits">{{ bits | join(" ") }}</p>
<p class="small">The best fitting codeword agrees in {{ verdict.payload.matching_bits }} of
{{ verdict.payload.bits | length }} bits
{{- " ({})".format(verdict.payload.best_match) if verdict.payload.best_match }}.</p>
{% if verdict.remarks %}<h2>Remarks</h2><ul>{% for remark in verdict.remarks %}
<li>{{ remark }}</li>{% endfor %}</ul>{% endif %}
<h2>Assumptions</h2><ul>
<li>Fingerprints are independent of each other and known to the owner only.</li>
<li>They were derived after the base model was fixed.</li>
<li>The suspect was read without looking at any customer's fingerprint or copy.</li>
<li>Every fingerprint issued and every test made is counted in the bound.</li></ul>
<h2>What is not shown</h2><ul>{% for item in not_shown %}<li>{{ item }}</li>{% endfor %}</ul>
<p class="small">{% for key, value in versions.items() %}{{ key }} {{ value }}
{{ "" if loop.last else "&middot;" | safe }} {% endfor %}</p>{% endblock %}
"""
