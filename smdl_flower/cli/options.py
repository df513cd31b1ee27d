"""Options that several commands share, and how a home is opened."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from smdl_flower import keyfile
from smdl_flower.errors import HomeError
from smdl_flower.flower.owner import home_path, passphrase_path, read_passphrase_file
from smdl_flower.home import KEY_FILE, OwnerHome

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="The owner's home.  [default: $SMDL_HOME or ~/.smdl]"),
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="File whose first line opens the master key."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a value: key=value. May be repeated.")
]

console = Console()
messages = Console(stderr=True)


def resolve_home(home: Path | None) -> Path:
    """Return the home that is meant."""
    return home.expanduser() if home else home_path()


def open_home(home: Path | None, passphrase_file: Path | None) -> OwnerHome:
    """Open the owner's home, asking for the passphrase if it takes one."""
    path = resolve_home(home)
    return OwnerHome.open(path, passphrase_of(path, passphrase_file))


def passphrase_of(home: Path, passphrase_file: Path | None) -> str | None:
    """Return what opens a home's keys, asking for it if need be; None if nothing does."""
    OwnerHome.require(home)
    passphrase = read_passphrase_file(passphrase_file or passphrase_path())
    if passphrase is None and keyfile.is_encrypted(home / KEY_FILE):
        passphrase = str(typer.prompt("Passphrase", hide_input=True, err=True))
    return passphrase


def ask_for_new(what: str) -> str:
    """Ask for a new passphrase, twice."""
    return str(typer.prompt(what, hide_input=True, confirmation_prompt=True, err=True))


def require_unattended(home: Path | None, passphrase_file: Path | None) -> Path | None:
    """Check that a home can be opened later by another process, and return its passphrase file.

    Raises:
        HomeError: It is missing, or its passphrase would have to be typed.
    """
    path, file = resolve_home(home), passphrase_file or passphrase_path()
    OwnerHome.require(path)
    if file is None and keyfile.is_encrypted(path / KEY_FILE):
        raise HomeError(
            f"{path} is encrypted and a run cannot ask for the passphrase; give --passphrase-file"
        )
    OwnerHome.open(path, read_passphrase_file(file))
    return file


def print_json(document: dict[str, Any]) -> None:
    """Print a document for programs."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))
