"""What all pages for people share: one self-contained HTML file, for screens and for paper."""

import io
import math
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MARK, THRESHOLD, PLAIN = "#1f5fa8", "#b3261e", "#8a8f98"
WIDE = (7.0, 2.8)  # inches


def plot(
    draw: Callable[[Axes, Any], None],
    data: Any,
    *,
    says: str = "",
    size: tuple[float, float] = WIDE,
) -> Markup:
    """Return what ``draw`` draws of ``data``, as SVG to put into a page.

    Args:
        draw: Given axes and data.
        data: To be drawn.
        says: The same in words, for those who cannot see it.
        size: Inches.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, data)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    described = f'<svg role="img" aria-label="{escape(says)}"' if says else "<svg"
    return Markup(described + svg[svg.index("<svg") + 4 :])  # noqa: S704 - drawn here


def render(pages: Mapping[str, str], name: str, **values: Any) -> str:
    """Return one of some templates, filled in; what is filled in is escaped.

    Args:
        pages: Templates by name; they extend ``base``.
        name: Of the one.
        values: To fill in.
    """
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"base": TEMPLATE, **pages}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"percent": percent, "power": power, "one_in": one_in}
    return environment.get_template(name).render(**values)


def percent(value: float | None) -> str:
    """Return a share in words."""
    return "not checked" if value is None else f"{value:.1%}"


def power(log10: float) -> Markup:
    """Return a probability of that logarithm as people read it.

    Example:
        >>> power(-3126.49), power(-0.3)
        (Markup('10<sup>&minus;3126.4</sup>'), Markup('0.51'))
    """
    if log10 > -1:
        return Markup("{:.2f}").format(math.ceil(100 * 10**log10) / 100)
    # Rounded towards one: no chance is said to be smaller than it is.
    return Markup("10<sup>&minus;{}</sup>").format(math.floor(-10 * log10) / 10)


def one_in(probability: float) -> str:
    """Return a small probability in words.

    Example:
        >>> one_in(1e-6)
        '1 in 1,000,000'
    """
    return f"1 in {round(1 / probability):,}"


# A template is a string: Flower ships only .py files of this package to a SuperLink.
TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1e21; background: #fff; max-width: 46rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.lead { font-size: 1.15rem; border-left: 4px solid #1f5fa8; padding: .4rem 1rem;
  background: #f3f6fa; }
.named { border-color: #b3261e; background: #fbf1f0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #dfe2e6;
  vertical-align: top; }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
.words th, .words td { text-align: left; } .words td:first-child { white-space: nowrap; }
.short { display: grid; grid-template-columns: 8.5rem 1fr; gap: .6rem 1rem; margin: 1.2rem 0; }
.short dt { font-weight: 600; } .short dd { margin: 0; }
code, .bits { font-family: ui-monospace, monospace; font-size: .85rem; overflow-wrap: anywhere; }
td[rowspan] { min-width: 7.5rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } figure svg { max-width: 34rem; width: 100%; }
svg { max-width: 100%; height: auto; } .small, figcaption { color: #5a5f66; font-size: .88rem; }
@media (max-width: 34rem) { body { margin: 1rem auto; }
  .short { grid-template-columns: 1fr; gap: 0; } .short dd { margin-bottom: .7rem; }
  th, td { padding: .3rem .3rem; } .wide table { font-size: .82rem; }
  td[rowspan] { min-width: 4rem; } .words td:first-child { white-space: normal; } }
@page { size: A4; margin: 16mm 15mm; }
@media print { body { margin: 0; padding: 0; max-width: none; font-size: 10.5pt; }
  h2 { break-after: avoid; } .wide { overflow: visible; }
  figure, svg, tr, li, .lead, .bits, .short > * { break-inside: avoid; }
  .lead, svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
</style></head><body><h1>{{ title }}</h1>{% block body %}{% endblock %}</body></html>
"""
