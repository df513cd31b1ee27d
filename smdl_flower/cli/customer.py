"""``smdl customer``: who may receive copies, and by which key a participant is known."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    console,
    open_home,
    print_json,
)
from smdl_flower.deployment import folders
from smdl_flower.errors import ConfigError, MissingFileError
from smdl_flower.nodekeys import LARGEST_FILE, NodePublicKey

app = typer.Typer(help="Add and list customers.", no_args_is_help=True, rich_markup_mode=None)

KeyOption = typer.Option(
    "--public-key",
    help="Public key of the customer's SuperNode (OpenSSH or PEM): it gets its copy over Flower.",
)


@app.command("add")
def add(
    names: Annotated[list[str] | None, typer.Argument(help="Names.")] = None,
    from_csv: Annotated[
        Path | None, typer.Option("--from-csv", help="Take the names from a column 'name'.")
    ] = None,
    public_key: Annotated[Path | None, KeyOption] = None,
    federation: Annotated[
        Path | None,
        typer.Option(
            "--federation", help="Add each participant of smdl deploy init, with its key."
        ),
    ] = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add customers, all or none of them."""
    wanted = list(names or []) + (_read_csv(from_csv) if from_csv else [])
    keys = _read_federation(federation) if federation else {}
    if public_key:
        if len(wanted) != 1:
            raise ConfigError("--public-key is one customer's: name exactly one")
        keys[wanted[0]] = _read_key(public_key)
    wanted += [name for name in keys if name not in wanted]
    if not wanted:
        raise ConfigError("no customer given; name at least one, or say --from-csv FILE")
    owner = open_home(home, passphrase_file)
    owner.registry.add_customers(wanted, keys)
    if as_json:
        print_json({"format": "smdl-customers/1", "added": wanted, "keys": _fingerprints(keys)})
    else:
        console.print(f"Added {len(wanted)} customers.")


@app.command("key")
def key(
    name: Annotated[str, typer.Argument(help="A customer.")],
    public_key: Annotated[Path, KeyOption],
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a customer a public key, in place of the one it may have."""
    given = _read_key(public_key)
    open_home(home, passphrase_file).registry.set_key(name, given)
    if as_json:
        document = {"format": "smdl-customers/1", "keys": _fingerprints({name: given})}
        print_json(document)
    else:
        console.print(f"{name}: {given.fingerprint}", markup=False, highlight=False)


@app.command("list")
def list_(
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List customers in the order they were added, with the fingerprints of their keys."""
    registry = open_home(home, passphrase_file).registry
    customers, keys = list(registry.customers()), _fingerprints(registry.public_keys())
    if as_json:
        print_json({"format": "smdl-customers/1", "customers": customers, "keys": keys})
        return
    lines = [f"{name}  {keys[name]}" if name in keys else name for name in customers]
    console.print("\n".join(lines) or "No customers yet.", markup=False, highlight=False)


def _fingerprints(keys: Mapping[str, NodePublicKey]) -> dict[str, str]:
    return {name: given.fingerprint for name, given in keys.items()}


def _read_federation(folder: Path) -> dict[str, NodePublicKey]:
    federation = folders.load(folder)
    return {name: _read_key(federation.public_key(name)) for name in federation.participants}


def _read_key(path: Path) -> NodePublicKey:
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise MissingFileError(f"{path}: cannot be read ({error.strerror})") from None
    return NodePublicKey.parse(content, str(path))


def _read_csv(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if "name" not in (rows.fieldnames or []):
                raise ConfigError(f"{path}: no column 'name' in its first line")
            return [(row["name"] or "").strip() for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as CSV ({error})") from None
