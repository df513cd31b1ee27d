"""The page of a run, for people."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from smdl_flower import files, page, privacy_page
from smdl_flower.errors import ConfigError
from smdl_flower.flower import checkpoint
from smdl_flower.flower.incidents import grouped
from smdl_flower.flower.run_folder import RunFolder


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
    text = page.render(
        {"run": _RUN, "privacy": privacy_page.SECTION},
        "run",
        title=f"Run of scenario {resolved['config']['scenario']}",
        outcome=outcome,
        copies=copies,
        issued=[copy for copy in copies if copy["path"]],
        last=metrics[-1] if metrics else {"round": 0},
        has_checkpoint=(run / checkpoint.DIRECTORY).is_dir(),
        folder=run.resolve(),
        accuracy_plot=page.plot(_draw_rounds, metrics) if metrics else "",
        copies_plot=page.plot(_draw_copies, outcome) if copies else "",
        resolved=resolved,
        privacy=privacy,
        spent=privacy_page.spent_rows(privacy) if privacy else [],
        attacks=privacy_page.attack_scores(run),
        score_text=privacy_page.score_text,
        guess_text=privacy_page.guess_text,
        epsilon_plot=page.plot(privacy_page.draw_epsilon, privacy)
        if privacy and privacy["epsilon"] is not None
        else "",
    )
    path = run / "report.html"
    files.write(path, text.encode())
    return path


def _document(path: Path) -> dict[str, Any] | None:
    """A JSON object that a run left; None if it did not get that far."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _draw_rounds(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    rounds = [line["round"] for line in metrics]
    axes.plot(rounds, [100 * line["accuracy"] for line in metrics], "o-", color=page.MARK)
    axes.set(xlabel="round", ylabel="accuracy of the global model, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _draw_copies(axes: Axes, outcome: Mapping[str, Any]) -> None:
    copies = [copy for copy in outcome["copies"] if copy["accuracy"] is not None]
    drops = [100 * (copy["accuracy"] - outcome["base_accuracy"]) for copy in copies]
    axes.bar(range(len(drops)), drops, color=page.MARK, width=0.6)
    axes.axhline(0.0, color=page.PLAIN, linewidth=1)
    if len(copies) <= 12:
        axes.set_xticks(range(len(copies)), [_plain(copy["customer"]) for copy in copies])
        axes.tick_params(axis="x", labelsize=8)
    reach = max([0.5, *map(abs, drops)]) * 1.2
    axes.set(ylabel="accuracy against\nthe base model, points", ylim=(-reach, reach))


def _plain(text: str) -> str:
    return html.escape(text).replace("$", r"\$")  # "$" starts mathematics in matplotlib


# A template is a string: Flower ships only .py files of this package to a SuperLink.
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
