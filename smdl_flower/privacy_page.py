"""The privacy section of a run's page: what may be claimed, on which figures it rests, what not."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

CAP = "#b3261e"


def draw_epsilon(axes: Axes, privacy: Mapping[str, Any]) -> None:
    """Draw what each participant's ledger had spent after each round, and the run's limit."""
    for participant, lines in privacy["participants"].items():
        rounds = [line["round"] for line in lines]
        spent = [line["epsilon"] for line in lines]
        axes.plot(rounds, spent, label=f"participant {int(participant)}")
    axes.axhline(privacy["epsilon_asked"], color=CAP, linewidth=1)
    axes.set(xlabel="round", ylabel="epsilon spent in all")
    axes.set_ylim(bottom=0.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(privacy["participants"]) <= 10:
        axes.legend(fontsize=8, frameon=False)


def spent_rows(privacy: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return one row per participant: its last declaration."""
    participants: Mapping[str, Sequence[Mapping[str, Any]]] = privacy["participants"]
    return [{"participant": name, **lines[-1]} for name, lines in participants.items() if lines]


# A template is a string: Flower ships only .py files of this package to a SuperLink.
SECTION = """
<h2>Privacy</h2><p>{{ privacy.claim }}. Policy <code>{{ privacy.policy }}</code>, channel
<code>{{ privacy.channel }}</code>, partition <code>{{ privacy.partition_sha256[:16] }}</code>.</p>
<table><tr><th>tensor</th><th>label</th><th>shape</th><th>SHA-256 of public values</th></tr>
{% for tensor in privacy.partition.tensors %}<tr><td><code>{{ tensor.name }}</code></td>
<td>{{ tensor.label }}</td><td>{{ tensor.shape | join(" x ") }}</td>
<td><code>{{ tensor.sha256[:16] }}</code></td></tr>{% endfor %}</table>
{% if privacy.channel == "dp" %}
<p>Unit of privacy: {{ privacy.unit }}. Each image's gradient is cut to length
{{ privacy.mechanism.max_grad_norm }}; noise of {{ "%.3f" | format(privacy.mechanism.sigma) }} times
that is added at the participant; sampling rate {{ privacy.mechanism.sample_rate }},
{{ privacy.mechanism.steps_per_round }} steps a round. Delta {{ "%g" | format(privacy.delta) }};
accountant: {{ privacy.accountant }}; randomness: {{ privacy.rng }}.
{% if privacy.epsilon_prv_of_this_run is not none %}By privacy loss distributions, this run alone
costs at most {{ "%.3f" | format(privacy.epsilon_prv_of_this_run) }}.{% endif %}</p>
{% if privacy.epsilon is not none %}{{ epsilon_plot }}
<table><tr><th>participant</th><th>epsilon</th><th>cap of its ledger</th><th>charges</th>
<th>ledger</th></tr>
{% for row in spent %}<tr><td>{{ row.participant }}</td><td>{{ "%.3f" | format(row.epsilon) }}</td>
<td>{{ "%g" | format(row.cap) }}</td><td>{{ row.charges }}</td>
<td><code>{{ row.ledger_head[:16] }}</code></td></tr>{% endfor %}</table>{% endif %}
<p>Checked:</p><ul>{% for check in privacy.checks %}
<li>{{ check.check }}: {{ "yes" if check.passed else "NO" }}</li>{% endfor %}</ul>
<p>Assumed:</p><ul>{% for item in privacy.trust %}<li>{{ item }}</li>{% endfor %}</ul>
<p>Not covered:</p><ul>{% for item in privacy.not_covered %}<li>{{ item }}</li>{% endfor %}</ul>
{% endif %}
"""
