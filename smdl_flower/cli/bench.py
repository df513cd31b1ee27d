"""``smdl bench``: how copies of a run stand up to thieves."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from smdl_flower.bench import efficiency, page, plan, record, summary, trials
from smdl_flower.bench.plan import Plan
from smdl_flower.bench.record import Record
from smdl_flower.bench.subject import Subject
from smdl_flower.bench.summary import Line
from smdl_flower.cli import privacy_bench
from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    console,
    messages,
    open_home,
    print_json,
)
from smdl_flower.errors import ConfigError

HEADINGS = ("attack", "accuracy", "named", "wrongly", "least z", "log10 p", "bit errors", "eta")
LONGEST_REMARK = 60  # in the terminal; bench.json and the page have all of it


def bench(
    targets: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folder of a completed run; with --privacy, any number, scenario files too.",
        ),
    ],
    privacy: Annotated[
        bool, typer.Option("--privacy", help="Attack the participants instead of the copies.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few minutes: about 20 rows, one customer each.")
    ] = False,
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="This attack only. May be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="For bench.json and bench.html.  [default: RUN/bench]"),
    ] = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try attacks on a run's copies: what thieves keep, and whom the owner names.

    Without --quick it may take hours. Results are written as they come; a bench that was
    interrupted goes on where it was. No result accuses a real customer: copies are altered here.

    With --privacy, what participants send is attacked as the server could, and the final model as a
    customer could, each attack with its control: minutes, and no owner's home is needed.
    """
    if privacy:
        privacy_bench.bench(targets, out, as_json=as_json)
        return
    if len(targets) != 1:
        raise ConfigError(f"bench: {len(targets)} runs were given; without --privacy give one")
    (run,) = targets
    what = plan.only(plan.quick() if quick else plan.full(), attacks or ())
    folder = out or run / "bench"
    subject = Subject(open_home(home, passphrase_file), run)
    key = subject.home.key_of(subject.model.model_id)
    results = Record(folder / record.NAME, key, trials.identity(subject, what))
    _carry_out(subject, what, results, quiet=as_json)
    figures = summary.totals(results.document())
    efficiency.complete(results)
    results.save(figures)
    document = results.document(figures)
    page.write(folder / "bench.html", document)
    if as_json:
        print_json(document)
        return
    print_table(summary.lines(document), figures)
    console.print(f"Written: {folder / record.NAME}, {folder / 'bench.html'}")


def print_table(lines: Sequence[Line], figures: dict[str, Any]) -> None:
    """Print one line per row, then the totals."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "attack" else "right")
    for line in lines:
        table.add_row(*map(Text, _cells(line)), style="bold red" if line.wrongly_named else "")
    console.print(table)
    console.print(summary.closing(figures), highlight=False)


def _cells(line: Line) -> list[str]:
    remark = textwrap.shorten(line.remark, LONGEST_REMARK, placeholder=" ...")
    return [
        "\n  ".join(part for part in (summary.title(line), remark) if part),
        _figure(line.accuracy, "{:.1%}"),
        f"{line.named} of {line.guilty}" if line.guilty else "-",
        str(line.wrongly_named),
        _figure(line.least_score, "{:.0f}"),
        _figure(line.weakest_log10_p, "{:.0f}"),
        _figure(line.bit_error_rate, "{:.1%}"),
        _figure(line.eta, "{:.2f}"),
    ]


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _carry_out(subject: Subject, what: Plan, results: Record, *, quiet: bool) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=messages, disable=quiet) as bars:
        todo = trials.trials(subject, what)
        task = bars.add_task("Starting", total=len(todo))
        for done, _ in trials.run(subject, todo, results):
            bars.update(task, advance=1, description=done.row.attack)
