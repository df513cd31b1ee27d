"""``smdl bench --privacy``: how participants of a run stand up to those who read what they send."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from smdl_flower import files, privacy_page, report
from smdl_flower.bench.privacy import attacks, auditing, participants, record
from smdl_flower.bench.privacy.attacks import Attack
from smdl_flower.bench.privacy.auditing import Audited
from smdl_flower.bench.privacy.participants import Participants
from smdl_flower.bench.privacy.scores import Row
from smdl_flower.cli.options import console, messages, print_json
from smdl_flower.config import RunConfig
from smdl_flower.errors import ConfigError

HEADINGS = ("attack", "control", "this run", "a guess", "")


def bench(targets: Sequence[Path], out: Path | None, *, as_json: bool) -> None:
    """Attack each target; print a table and write ``privacy-attacks.json``.

    Raises:
        ConfigError: A target is no run and no scenario, or several would be written to one place.
    """
    runs = [participants.read_target(target) for target in targets]
    paths = [_path(target, run, out) for target, run in zip(targets, runs, strict=True)]
    if len(set(paths)) < len(paths):
        raise ConfigError(
            "bench: several targets would be written to one file; bench one at a time"
        )
    documents = []
    for run, path in zip(runs, paths, strict=True):
        documents.append(_one(run, path, as_json=as_json))
    if as_json:
        print_json(documents[0] if len(documents) == 1 else {"benches": documents})


def _one(run: RunConfig, path: Path, *, as_json: bool) -> dict[str, Any]:
    with _bars(quiet=as_json) as bars:
        task = bars.add_task("Loading", total=None)
        who = participants.load(run)
        chosen = attacks.attacks(who)
        bars.update(task, total=sum(a.steps for a in chosen) + who.is_private, completed=0)
        rows = [_measured(who, attack, bars) for attack in chosen]
        found = None
        if who.is_private:
            bars.update(task, description="audit")
            found = auditing.audited(who)
            bars.advance(task)
    document = record.document(who, rows, found)
    files.write_json(path, document)
    if (path.parent / "run.json").exists():  # its page shows the scores from now on
        report.write_run_report(path.parent)
    if not as_json:
        print_table(who, rows, found)
        console.print(f"Written: {path}")
    return document


def _measured(who: Participants, attack: Attack, bars: Progress) -> Row:
    task = bars.task_ids[0]
    bars.update(task, description=attack.name)
    return attack.measure(who, lambda: bars.advance(task))


def print_table(who: Participants, rows: Sequence[Row], found: Audited | None) -> None:
    """Print one line per attack, then the audit in words."""
    privacy = who.run.privacy
    budget = f", epsilon {privacy.epsilon:g}" if who.is_private else ""
    title = f"{who.run.scenario}: {who.run.model}, {privacy.policy}, {privacy.channel}{budget}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("attack", "") else "right")
    for row in rows:
        table.add_row(
            f"{row.attack}\n  {row.question}",
            *(row.control.text(), row.protected.text()),
            *(privacy_page.guess_text(asdict(row)), row.verdict()),
        )
    console.print(table)
    if found is None:
        console.print("Channel clear: what an attack reaches in the clear, it reaches in this run.")
        return
    console.print(_audit_text(found), highlight=False)


def _audit_text(found: Audited) -> str:
    honest = found.honest
    if not found.works:
        return "Audit not working: half of the noise was not noticed; it says nothing."
    if honest.failures:
        return "Audit FAILED: " + "; ".join(honest.failures)
    return (
        f"Audit passed: noise, clipping and sampling are as claimed (epsilon "
        f"{honest.claimed_epsilon:.2f}, refuted below {honest.lower_bound:.2f}); half of the noise "
        "was noticed."
    )


def _path(target: Path, run: RunConfig, out: Path | None) -> Path:
    if out is not None:
        return out / record.NAME
    folder = target if target.is_dir() else Path("runs") / f"{run.scenario}-privacy"
    return folder / record.NAME


def _bars(*, quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=messages, disable=quiet)
