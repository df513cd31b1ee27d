"""A judge's page: what was confirmed, on what it rests, and what was checked of the owner's."""

from pathlib import Path

from smdl_flower import evidence, files, page, verdict_plots
from smdl_flower.evidence import ASSUMPTIONS, versions
from smdl_flower.judging import CONTROL, FILE, RECORDED, Judgement

NOT_SHOWN = (
    "when the commitment was made, unless its digest was published or a trusted authority stamped "
    "it",
    "how many suspects the owner examined before this one",
    "that no other customer scores as high: only the accused's keys were opened, decoys stand for "
    "the others",
)


def write(judgement: Judgement, path: Path, *, key_checked: bool, published_checked: bool) -> None:
    """Write the page of a judgement.

    Args:
        judgement: What was found.
        path: Of the page.
        key_checked: Whether the owner's published key was known.
        published_checked: Whether the newest published digest was known.
    """
    asked = judgement.rests_on != FILE
    confirmed = [c for c in judgement.confirmations if c.confirmed]
    text = page.render(
        {"judgement": _JUDGEMENT},
        "judgement",
        title="Judgement on an accusation",
        judgement=judgement,
        names=", ".join(c.customer for c in judgement.confirmations),
        weakest=max((c.strongest.log10_p for c in confirmed), default=0.0),
        recorded=judgement.rests_on == RECORDED,
        control=CONTROL if asked else "",
        key_checked=key_checked,
        published_checked=published_checked,
        decoys=verdict_plots.of_decoys(judgement.decoys),
        assumptions=ASSUMPTIONS,
        not_shown=(
            *evidence.NOT_SHOWN,
            *(evidence.ASKED_NOT_SHOWN if asked else ()),
            *NOT_SHOWN,
        ),
        versions=versions(),
    )
    files.write(path, text.encode())


# A template is a string: Flower ships only .py files of this package to a SuperLink.
_JUDGEMENT = """{% extends "base" %}{% block body %}
{% set one = judgement.confirmations | length == 1 %}
<p class="lead {{ "named" if judgement.valid }}">{% if judgement.valid %}
Valid{{ ", if the owner's record of the answers is believed" if recorded }}:
computed anew, the {{ "accusation" if one else "accusations" }} of {{ names }}
{{ "is" if one else "are" }} confirmed.{% else %}
Not valid: not every accusation is confirmed.{% endif %}</p>
<dl class="short">
<dt>Who</dt><dd>{% for c in judgement.confirmations %}<b>{{ c.customer }}</b>:
{{ "its copy took part in making the suspect" if c.confirmed else "NOT confirmed" }}
{{- "; " if not loop.last }}{% endfor %}.</dd>
<dt>How sure</dt><dd>{% if weakest < 0 %}An innocent's fingerprint would score as much with a chance
of at most <b>{{ weakest | power }}</b>.{% endif %} The chance that this procedure names anybody
innocent is at most <b>{{ judgement.max_false_accusation | one_in }}</b>, shared among
{{ "{:,}".format(judgement.words) }} fingerprints. That is how rarely it errs, not how probable
anybody's guilt is.</dd>
<dt>Why</dt><dd>It rests on {{ judgement.rests_on }}.
{% if judgement.agreeing is not none %}{{ judgement.agreeing }} of {{ judgement.images }} answers
are those that the owner recorded; a suspect that answers otherwise today refutes
nothing.{% endif %}
{% if recorded %}<b>Ask the suspect anew (<code>--predictor</code>) before relying on it.</b>
{% endif %}{% if control %}As a control, {{ control }}.{% endif %}</dd>
<dt>Assumed</dt><dd>Fingerprints were secret, and fixed before the leak; all six assumptions are
below.</dd>
<dt>Not shown</dt><dd>Who passed it on: a copy may have been stolen, or merged with consent.</dd>
</dl>
<h2>Evidence</h2><div class="wide"><table>
<tr><th>customer</th><th class="text">evidence</th><th>score</th><th>chance for an innocent</th>
<th>names at or below</th></tr>
{% for c in judgement.confirmations %}{% for w in c.witnesses %}
<tr>{% if loop.first %}<td rowspan="{{ loop.length }}">{{ c.customer }}<br>
{{ "confirmed" if c.confirmed else "NOT confirmed" }}</td>{% endif %}
<td class="text">{{ w.label() }}</td>
<td>{{ ("%.1f" if w.evidence == "carrier" else "%.0f") | format(w.score) }}</td>
<td>{{ w.log10_p | power }}</td>
<td>{{ w.threshold | power }}</td></tr>{% endfor %}{% endfor %}</table></div>
<h2>What was checked</h2><table class="words">
<tr><td>Signatures</td><td>All by key <code>{{ judgement.key_id }}</code>,
{{ "the published one." if key_checked else "which nobody compared with a published one." }}
</td></tr>
<tr><td>Commitment</td><td>Statement <code>{{ judgement.commitment_sha256 }}</code> of
{{ judgement.committed_at }}, as its signer says;
{{ "published in time." if published_checked else "nobody said whether it was published in time." }}
</td></tr>
<tr><td>Time stamp</td><td>{{ judgement.stamped_at or "None that was checked." }}</td></tr>
<tr><td>Suspect</td><td>SHA-256 <code>{{ judgement.suspect_sha256 }}</code></td></tr>
<tr><td>Files, keys, figures</td><td>As signed; as committed to; as found here.</td></tr></table>
{% if decoys %}<h2>The suspect against innocents</h2><figure>{{ decoys }}
<figcaption>{{ judgement.decoys.count }} decoys, whose keys follow from the commitment's digest and
are nobody's choice: mean {{ "%.2f" | format(judgement.decoys.mean) }}, standard deviation
{{ "%.2f" | format(judgement.decoys.deviation) }}, highest
{{ "%.1f" | format(judgement.decoys.highest) }}, as innocents must.</figcaption></figure>{% endif %}
<h2>Assumptions</h2><ol>{% for item in assumptions %}<li>{{ item }}</li>{% endfor %}</ol>
<h2>What is not shown</h2><ul>{% for item in not_shown %}<li>{{ item }}</li>{% endfor %}</ul>
<p class="small">{% for key, value in versions.items() %}{{ key }} {{ value }}
{{ "" if loop.last else "&middot;" | safe }} {% endfor %}</p>{% endblock %}
"""
