"""The page that explains a verdict: who, how sure, why and what is assumed, in plain words first.

It names nobody but the accused (docs/decisions/0005) and never tells a probability of guilt: what
is known is how rarely an innocent's fingerprint would score as much.
"""

from pathlib import Path

from smdl_flower import files, page, verdict_plots
from smdl_flower.evidence import ASSUMPTIONS, TracedBroadcast, Verdict, Witness, versions

AS_IT_LIES = "none"


def write(verdict: Verdict, path: Path) -> None:
    """Write the page of a verdict."""
    strongest = _strongest(verdict)
    text = page.render(
        {"verdict": _VERDICT},
        "verdict",
        title="Verdict on a suspect model",
        verdict=verdict,
        summary=verdict.summary(),
        strongest=strongest,
        weakest=max((found.log10_p for found in strongest), default=0.0),
        names_from=verdict_plots.threshold(verdict),
        plots=verdict_plots.of(verdict),
        bits=_groups_of(verdict.payload.bits, 16),
        as_it_lies=verdict.alignment == AS_IT_LIES,
        assumptions=ASSUMPTIONS,
        not_shown=verdict.not_shown,
        versions=versions(),
    )
    files.write(path, text.encode())


def _strongest(verdict: Verdict) -> list[Witness | TracedBroadcast]:
    """The strongest evidence against each who is named."""
    return [*(a.witnesses[0] for a in verdict.accused), *verdict.participants]


def _groups_of(bits: str, size: int) -> list[str]:
    return [bits[i : i + size] for i in range(0, len(bits), size)]


# A template is a string: Flower ships only .py files of this package to a SuperLink.
_VERDICT = """{% extends "base" %}{% block body %}
{% set one = verdict.accused | length == 1 %}
{% set asked = verdict.queries %}{% set noun = "model" if asked else "file" %}
<p class="lead {{ "named" if verdict.names_somebody }}">{{ summary }}</p>
<dl class="short">
{% if verdict.accused %}
<dt>Who</dt><dd>{% for a in verdict.accused %}<b>{{ a.customer }}</b>
{{- ", " if not loop.last }}{% endfor %}:
{{ "the copy issued to this customer" if one else "copies issued to these customers" }} took part in
making the {{ noun }}.</dd>
{% elif verdict.participants %}
<dt>Who</dt><dd>{% for p in verdict.participants %}<b>{{ p.who }}</b>, round {{ p.round }}
{{- "; " if not loop.last }}{% endfor %}: what was sent there in training took part in making the
{{ noun }}.</dd>
{% else %}<dt>Who</dt><dd><b>Nobody</b> is named.</dd>
{% endif %}
{% if verdict.names_somebody %}
<dt>How sure</dt><dd>An innocent's fingerprint would score as much with a chance of at most
<b>{{ weakest | power }}</b>{{ " each" if strongest | length > 1 }}. With all
{{ "{:,}".format(verdict.words) }} fingerprints and all tests counted, the chance that this
procedure names anybody innocent is at most
<b>{{ verdict.max_false_accusation | one_in }}</b>. That is how rarely it errs, not how
probable anybody's guilt is.</dd>
<dt>Why</dt><dd>{% set first = strongest[0] %}
{% if verdict.participants or first.evidence == "carrier" %}
{% if strongest | length == 1 %}
A secret pattern, given to {{ "this customer" if verdict.accused else "this participant" }} alone,
is in the suspect's weights: it scores
{% else %}Secret patterns, one given to each of them alone, are in the suspect's weights: the
strongest scores {% endif %}<b>{{ "%.1f" | format(first.score) }}</b>, where chance alone
gives 0, give or take 1; from {{ "%.1f" | format(names_from) }} on somebody is named.
{% elif first.evidence == "queries" %}
Of {{ asked.images }} secret images, <b>{{ verdict.payload.matching_bits }}</b> were answered as
{{ "this customer's copy" if one else "one of these copies" }} was taught to;
an innocent's copy would agree in about half.
{% else %}
Of {{ verdict.payload.bits | length }} bits read from the weights,
<b>{{ verdict.payload.matching_bits }}</b> are those of {{ "this customer's" if one
else "one of these customers'" }} secret codeword; an innocent's word
agrees in about half.
{% endif %}
{% if verdict.accused and verdict.highest_unnamed_score is not none %}The highest of all other
customers reaches {{ "%.1f" | format(verdict.highest_unnamed_score) }}.{% endif %}</dd>
{% else %}
<dt>How sure</dt><dd>Somebody is named only if the chance of naming anybody innocent stays at
{{ verdict.max_false_accusation | one_in }} or less. That protects the innocent; it does not
clear anybody: a mark may have been removed.</dd>
<dt>Why</dt><dd>{% if verdict.highest_unnamed_score is not none %}The highest of
{{ "{:,}".format(verdict.customers) }} customers scores
{{ "%.1f" | format(verdict.highest_unnamed_score) }};
{{ "%.1f" | format(names_from) }} would name somebody.
{% elif verdict.payload.bits %}The best of {{ "{:,}".format(verdict.customers) }} customers' words
agrees with {{ verdict.payload.matching_bits }} of {{ verdict.payload.bits | length }}
{{ "answers" if asked else "bits" }}, too few to name anybody.
{% else %}No copy of any model that fits was ever issued.{% endif %}</dd>
{% endif %}
<dt>Assumed</dt><dd>Fingerprints were secret, and fixed before the leak; all six assumptions are
below.</dd>
<dt>Not shown</dt><dd>{% if verdict.names_somebody %}Who passed it on: a copy may have been stolen,
or merged with consent.{% else %}That the {{ noun }} is nobody's copy.{% endif %}</dd>
</dl>
{% if verdict.names_somebody %}<h2>Evidence</h2><div class="wide"><table>
<tr><th>{{ "customer" if verdict.accused else "participant" }}</th><th class="text">evidence</th>
<th>score</th><th>chance for an innocent</th><th>names at or below</th></tr>
{% for accusation in verdict.accused %}{% for witness in accusation.witnesses %}
<tr>{% if loop.first %}<td rowspan="{{ loop.length }}">{{ accusation.customer }}</td>{% endif %}
<td class="text">{{ witness.label() }}</td>
<td>{{ ("%.1f" if witness.evidence == "carrier" else "%.0f") | format(witness.score) }}</td>
<td>{{ witness.log10_p | power }}</td>
<td>{{ witness.threshold | power }}</td></tr>{% endfor %}{% endfor %}
{% for sent in verdict.participants %}
<tr><td>{{ sent.who }}, node <code>{{ sent.node }}</code></td>
<td class="text">carrier, run {{ sent.run }}, round {{ sent.round }}</td>
<td>{{ "%.1f" | format(sent.score) }}</td><td>{{ sent.log10_p | power }}</td>
<td>{{ sent.threshold | power }}</td></tr>{% endfor %}</table></div>
<p class="small">Carrier: a pattern over all weights. Payload: a codeword read from the weights.
Queries: a codeword read from answers. In brackets, how it was decoded; each test counts.</p>
{% endif %}
{% if plots.scores %}<h2>The suspect against all customers</h2><figure>{{ plots.scores }}
<figcaption>One point for each customer, without names; height means nothing. Beyond 10 the scale is
logarithmic.</figcaption></figure>{% endif %}
{% if plots.decoys %}<h2>The suspect against innocents</h2><figure>{{ plots.decoys }}
<figcaption>{{ verdict.decoys.count }} decoys, customers who never existed, scored with this very
suspect: mean {{ "%.2f" | format(verdict.decoys.mean) }}, standard deviation
{{ "%.2f" | format(verdict.decoys.deviation) }}, highest
{{ "%.1f" | format(verdict.decoys.highest) }}, as innocents must. Were it otherwise, there would be
no verdict.</figcaption></figure>{% endif %}
{% if verdict.payload.bits %}<h2>{{ "Answers" if asked else "Bits" }} compared</h2>
{% if plots.agreement %}<figure>{{ plots.agreement }}</figure>{% endif %}
<p>The best fitting codeword
{{- " ({})".format(verdict.payload.best_match) if verdict.payload.best_match }} agrees in
{{ verdict.payload.matching_bits }} of {{ verdict.payload.bits | length }}.
{% if not verdict.payload.best_match %}Some customer's always fits best; that alone means
nothing.{% endif %} As read{{ ", a dash where an answer was neither" if asked }}:</p>
<p class="bits">{{ bits | join(" ") }}</p>{% endif %}
<h2>How it was examined</h2>
<p>{{ "Predictor" if asked else "File" }} <code>{{ verdict.suspect.path }}</code>
({{ verdict.suspect.kind }}), SHA-256 of {{ "its answers" if asked else "the file" }}
<code>{{ verdict.suspect.sha256 }}</code>.
{% if asked %}Pool {{ asked.pool }} of its questions: {{ asked.images }} images, of which
{{ asked.one_of_two }} were answered with one of the two classes that tell copies apart;
{{ "with" if asked.probabilities else "without" }} probabilities.
{% elif as_it_lies %}Alignment: none, it was compared as it lies.
{% else %}Alignment: its parts were first brought into the form of the base model
({{ verdict.alignment }}).{% endif %}
{% if verdict.model_id %}Base model <code>{{ verdict.model_id }}</code>.{% endif %}</p>
<p>All that was tried is counted: {{ "{:,}".format(verdict.customers) }} customers' fingerprints and
those of {{ "{:,}".format(verdict.broadcasts) }} models sent in training,
{{ verdict.hypotheses }} tests of each, whether they accused or not.
{% if not asked %}A carrier's score exceeds t in an innocent with a chance of at most
exp(-t&sup2;/2), whatever was done to the model.
{% endif %}Codewords are tested by their exact law.</p>
{% if verdict.remarks %}<ul>{% for remark in verdict.remarks %}
<li>{{ remark }}</li>{% endfor %}</ul>{% endif %}
{% if verdict.custody %}<h2>Chain of custody</h2><table class="words">
<tr><th>when (UTC)</th><th>what, and its SHA-256</th></tr>
{% for event in verdict.custody %}<tr><td>{{ event.at[:19] | replace("T", " ") }}</td>
<td>{{ event.what }}{% if event.sha256 %}<br><code>{{ event.sha256 }}</code>{% endif %}</td></tr>
{% endfor %}</table>
<p class="small">Times are the owner's, unless a trusted authority stamped them: <code>smdl judge
--tsa-root</code> checks that.</p>{% endif %}
<h2>Assumptions</h2><ol>{% for item in assumptions %}<li>{{ item }}</li>{% endfor %}</ol>
<h2>What is not shown</h2><ul>{% for item in not_shown %}<li>{{ item }}</li>{% endfor %}</ul>
{% if verdict.accused %}<h2>To check it</h2><p>Nobody need believe this page. With what
<code>smdl verify --disclose</code> adds, <code>smdl judge FOLDER
{{ "--predictor ..." if asked else "SUSPECT" }}</code> computes it anew on a machine that has
neither registry nor master key.</p>{% endif %}
<p class="small">{% for key, value in versions.items() %}{{ key }} {{ value }}
{{ "" if loop.last else "&middot;" | safe }} {% endfor %}</p>{% endblock %}
"""
