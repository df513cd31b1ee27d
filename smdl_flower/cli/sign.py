"""``smdl sign``: bundles that customers check with a public tool."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from smdl_flower import files
from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    console,
    open_home,
    print_json,
)
from smdl_flower.errors import ConfigError
from smdl_flower.home import OwnerHome

FORMAT = "smdl-signatures/1"


def sign(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Copies, or evidence folders.", metavar="[PATH]...")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", help="Write the key that customers check with here (PEM)."),
    ] = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign copies or evidence as OpenSSF model-signing bundles, PATH.sig beside each.

    Whoever has the public key checks that nothing was changed, with the public tool: model_signing
    verify key PATH --signature PATH.sig --public_key KEY.pem
    """
    if not paths and not public_key:
        raise ConfigError("name what is to be signed, or a file for the public key (--public-key)")
    owner = open_home(home, passphrase_file)
    if public_key:
        files.write(public_key, owner.key.bundle_key().public_pem, replace=False)
    signatures = sign_all(owner, paths or [])
    if as_json:
        pem = owner.key.bundle_key().public_pem.decode()
        document = {"format": FORMAT, "public_key": pem, "signatures": list(map(str, signatures))}
        print_json(document)
        return
    for path in [*signatures, *([public_key] if public_key else [])]:
        console.print(f"Written: {path}", soft_wrap=True)


def sign_all(owner: OwnerHome, paths: Sequence[Path]) -> list[Path]:
    """Sign files or folders, and return where the signatures are."""
    return [owner.key.bundle_key().sign(path) for path in paths]
