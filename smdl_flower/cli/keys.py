"""``smdl key``: passphrase and rotation of the owner's master key."""

from pathlib import Path
from typing import Annotated

import typer

from smdl_flower import commitments, keyfile, rotation, sealing
from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    ask_for_new,
    console,
    passphrase_of,
    print_json,
    resolve_home,
)
from smdl_flower.errors import ConfigError
from smdl_flower.flower.owner import read_passphrase_file
from smdl_flower.home import KEY_FILE

ROTATION_FORMAT = "smdl-rotation/1"

app = typer.Typer(
    help="Take care of the master key: its passphrase, and a new key.", no_args_is_help=True
)


@app.command("passphrase")
def passphrase(
    new_passphrase_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is the new passphrase.  [default: ask]"),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Keep the keys unencrypted from now on.")
    ] = False,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Set, change or remove the passphrase of a home's master keys.

    Backups made before still open with the old one.
    """
    if remove and new_passphrase_file:
        raise ConfigError("--remove and --new-passphrase-file exclude each other")
    path = resolve_home(home)
    old = passphrase_of(path, passphrase_file)
    keyfile.load(path / KEY_FILE, old)  # a wrong one is said before a new one is asked for
    new = None
    if not remove:
        new = read_passphrase_file(new_passphrase_file) or ask_for_new("New passphrase")
    rotation.change_passphrase(path, old, new)
    console.print("The master key is not encrypted any more." if remove else "Changed.")


@app.command("rotate")
def rotate(
    home: HomeOption = None, passphrase_file: PassphraseOption = None, as_json: JsonOption = False
) -> None:
    """Make a new master key, for the base models to come.

    Base models that are there keep their key, also for more customers: their copies are traced as
    before. Rotate while nothing runs. An interrupted rotation is finished by saying this again.
    """
    path = resolve_home(home)
    done = rotation.rotate(path, passphrase_of(path, passphrase_file))
    document = {
        "format": ROTATION_FORMAT,
        "keys": len(done.home.keys),
        "key_commitment": done.home.key.commitment(),
        "signing_key": commitments.keys_of([done.statement])[0],
        "sealing_key": sealing.to_text(done.home.key.sealing_key().public),
        "commitment_sha256": done.statement.digest,
    }
    if as_json:
        print_json(document)
        return
    console.print(
        f"{path} has {document['keys']} master keys now. Back it up anew.", soft_wrap=True
    )
    console.print("To publish before you deliver copies of a new base model:")
    for name in ("key_commitment", "signing_key", "commitment_sha256"):
        console.print(f"  {name.replace('_', ' ')}: {document[name]}", soft_wrap=True)
    console.print("Scenarios with fingerprint.where = offline need the new sealing key:")
    console.print(f"  {document['sealing_key']}", soft_wrap=True)
