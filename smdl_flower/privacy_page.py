"""The privacy section of a run's page: what may be claimed, on which figures it rests, what not."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from smdl_flower.errors import PrivacyError

CAP = "#b3261e"
ATTACKS_FILE, ATTACKS_FORMAT = "privacy-attacks.json", "smdl-privacy-attacks/1"


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


def attack_scores(run: Path) -> dict[str, Any] | None:
    """Return what ``smdl bench --privacy`` measured on a run; None if it was not asked.

    Raises:
        PrivacyError: The file is not of the format that this version reads.
    """
    path = run / ATTACKS_FILE
    if not path.exists():
        return None
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        known = document["format"] == ATTACKS_FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise PrivacyError(f"{path}: not of format {ATTACKS_FORMAT}; remove it and attack anew")
    found: dict[str, Any] = document
    return found


def score_text(score: Mapping[str, Any]) -> str:
    """Return one measured success in words.

    Example:
        >>> score_text({"right": 3, "trials": 100, "value": 0.03})
        '3 of 100'
    """
    if score["right"] is None:
        return f"AUC {score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f})"
    return f"{score['right']} of {score['trials']}"


def guess_text(row: Mapping[str, Any]) -> str:
    """Return what a guess reaches, as :func:`score_text` says what an attack does."""
    if row["protected"]["right"] is None:
        return f"AUC {row['chance']}"
    return f"{row['chance']:.2%}"


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
{% if attacks %}<h3>Attacks on participants</h3>
<p>Each attack with its control: the same attack where nothing protects. An attack whose control
fails says nothing. None of them is a proof; the epsilon is, as far as it goes.</p>
<table><tr><th>attack</th><th>what success tells</th><th>control</th><th>this run</th>
<th>a guess</th><th></th></tr>
{% for row in attacks.attacks %}<tr><td>{{ row.attack }}</td><td>{{ row.question }}</td>
<td>{{ score_text(row.control) }}</td><td>{{ score_text(row.protected) }}</td>
<td>{{ guess_text(row) }}</td><td>{{ row.verdict }}</td></tr>{% endfor %}</table>
{% set audit = attacks.audit %}{% if audit %}<p>Audit of the noise:
{% if not audit.works %}not working, says nothing{% elif audit.passed %}passed, claimed epsilon
{{ "%.2f" | format(audit.claimed_epsilon) }}, refuted below {{ "%.2f" | format(audit.lower_bound) }}
{%- else %}FAILED: {{ audit.failures | join("; ") }}{% endif %}.</p>{% endif %}
{% endif %}
"""
