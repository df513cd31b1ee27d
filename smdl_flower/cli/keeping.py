"""``smdl backup``, ``smdl restore`` and ``smdl check``: that a home is not lost."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from smdl_flower import backup, checking
from smdl_flower.checking import Findings
from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    ask_for_new,
    console,
    messages,
    open_home,
    passphrase_of,
    print_json,
    resolve_home,
)
from smdl_flower.flower.owner import read_passphrase_file

CHECK_FORMAT = "smdl-check/1"
WordsOption = Annotated[
    Path | None,
    typer.Option(
        "--backup-passphrase-file",
        help="File whose first line is the backup's own passphrase.  [default: ask]",
    ),
]
NewestOption = Annotated[
    str | None,
    typer.Option("--newest", help="Digest of the newest commitment that you published."),
]


def back_up(
    out: Annotated[Path, typer.Option("--out", help="The new file.")],
    backup_passphrase_file: WordsOption = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write keys, registry, base models and commitments into one encrypted file.

    The home may be in use. Its keys stay sealed under its own passphrase too, if it has one.
    Folders of runs and copies are not included.
    """
    path = resolve_home(home)
    passphrase = passphrase_of(path, passphrase_file)
    words = read_passphrase_file(backup_passphrase_file) or ask_for_new("Passphrase of the backup")
    with messages.status("Backing up ..."):
        done = backup.back_up(path, passphrase, out, words)
    if as_json:
        print_json({"format": "smdl-backup/1", "file": str(out), **asdict(done)})
        return
    console.print(
        f"Written: {out}, {done.files} files, {done.entries} entries of the registry. Keep its "
        "passphrase, and the home's, elsewhere.",
        soft_wrap=True,
    )


def restore(
    file: Annotated[Path, typer.Argument(help="What smdl backup wrote.")],
    registry: Annotated[
        str | None,
        typer.Option("--registry", help="SQLAlchemy URL.  [default: SQLite in the home]"),
    ] = None,
    newest: NewestOption = None,
    backup_passphrase_file: WordsOption = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a home of a backup, after checking all of it.

    Say the newest commitment that you published (--newest): a backup that lacks it is older than
    copies that are out, and is refused. Without it the home only traces: nothing can be issued.
    """
    target = resolve_home(home)
    words = read_passphrase_file(backup_passphrase_file)
    if words is None:
        words = str(typer.prompt("Passphrase of the backup", hide_input=True, err=True))
    with messages.status("Restoring and checking ..."):
        done = backup.restore(
            file,
            target,
            words,
            passphrase=lambda draft: passphrase_of(draft, passphrase_file),
            registry_url=registry,
            newest=newest,
        )
    _report(target, done.findings, as_json=as_json)


def check(
    newest: NewestOption = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read all of a home and compare it with what was recorded; nothing is changed.

    Exit code 4 if something is missing or altered, or if the home is older than what you published.
    """
    owner = open_home(home, passphrase_file)
    with messages.status("Checking ..."):
        findings = checking.check(owner, newest)
    _report(owner.path, findings, as_json=as_json)


def _report(home: Path, findings: Findings, *, as_json: bool) -> None:
    if as_json:
        print_json({"format": CHECK_FORMAT, "home": str(home), **asdict(findings)})
        return
    table = Table(show_header=False, box=None)
    for name, value in asdict(findings).items():
        if name not in ("remarks", "newest_commitment"):
            table.add_row(name, str(value))
    console.print(f"{home}: everything is as it was written.", soft_wrap=True)
    console.print(table)
    if findings.newest_commitment:
        console.print(f"newest commitment: {findings.newest_commitment}", soft_wrap=True)
    for remark in findings.remarks:
        console.print(f"Note: {remark}", soft_wrap=True)
