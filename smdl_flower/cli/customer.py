"""``smdl customer``: who may receive copies."""

import csv
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
from smdl_flower.errors import ConfigError

app = typer.Typer(help="Add and list customers.", no_args_is_help=True, rich_markup_mode=None)


@app.command("add")
def add(
    names: Annotated[list[str] | None, typer.Argument(help="Names.")] = None,
    from_csv: Annotated[
        Path | None, typer.Option("--from-csv", help="Take the names from a column 'name'.")
    ] = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add customers, all or none of them."""
    wanted = list(names or []) + (_read_csv(from_csv) if from_csv else [])
    if not wanted:
        raise ConfigError("no customer given; name at least one, or say --from-csv FILE")
    owner = open_home(home, passphrase_file)
    owner.registry.add_customers(wanted)
    if as_json:
        print_json({"format": "smdl-customers/1", "added": wanted})
    else:
        console.print(f"Added {len(wanted)} customers.")


@app.command("list")
def list_(
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List customers in the order they were added."""
    customers = list(open_home(home, passphrase_file).registry.customers())
    if as_json:
        print_json({"format": "smdl-customers/1", "customers": customers})
    else:
        console.print("\n".join(customers) or "No customers yet.", markup=False, highlight=False)


def _read_csv(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if "name" not in (rows.fieldnames or []):
                raise ConfigError(f"{path}: no column 'name' in its first line")
            return [(row["name"] or "").strip() for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as CSV ({error})") from None
