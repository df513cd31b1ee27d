"""``smdl init`` and ``smdl issue``."""

from pathlib import Path
from typing import Annotated

import typer

from smdl_flower import bundles, commitments, handover, issuing, sealing
from smdl_flower.cli import tables
from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    console,
    open_home,
    print_json,
    resolve_home,
)
from smdl_flower.cli.sign import sign_all
from smdl_flower.config import DataConfig, FingerprintConfig, checked
from smdl_flower.data import Images, load_test
from smdl_flower.errors import ConfigError
from smdl_flower.flower.owner import read_passphrase_file
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.models import ModelSpec
from smdl_flower.training import require_fit


def init(
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    registry: Annotated[
        str | None,
        typer.Option(
            "--registry",
            help="SQLAlchemy URL, without a password if possible.  [default: SQLite in the home]",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create the owner's home: master key and registry of customers.

    Keep a backup of it in a safe place (smdl backup): without the key no copy can be traced, and
    whoever has the key can forge evidence.
    """
    passphrase = read_passphrase_file(passphrase_file)
    created = OwnerHome.create(resolve_home(home), passphrase=passphrase, registry_url=registry)
    first = commitments.publish_owner(created)
    document = {
        "format": "smdl-init/1",
        "home": str(created.path),
        "encrypted": passphrase is not None,
        "key_commitment": created.key.commitment(),
        "sealing_key": sealing.to_text(created.key.sealing_key().public),
        "signing_key": created.key.signing_key().public,
        "commitment_sha256": first.digest,
    }
    if as_json:
        print_json(document)
        return
    console.print(f"Created {created.path}. Back it up (smdl backup); nobody can restore the key.")
    if passphrase is None:
        console.print("The master key is not encrypted; --passphrase-file FILE would do that.")
    console.print(f"Key commitment to publish before you deliver: {document['key_commitment']}")
    console.print(f"Signing key to publish: {document['signing_key']}")


def sealing_key(
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the public key that a server seals base models for (fingerprint.seal-to).

    It goes into scenarios with fingerprint.where = "offline". It is no secret: only this home opens
    what is sealed for it, with smdl issue.
    """
    public = sealing.to_text(open_home(home, passphrase_file).key.sealing_key().public)
    if as_json:
        print_json({"format": "smdl-sealing-key/1", "sealing_key": public})
    else:
        typer.echo(public)


def issue(
    model: Annotated[
        Path, typer.Argument(help="Trained model: a safetensors file, or global.sealed of a run.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the copies.")],
    customers: Annotated[
        list[str] | None,
        typer.Option("--customer", help="Name. May be repeated.  [default: all]"),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="cnn, resnet8, a torchvision classifier, or module:factory."),
    ] = None,
    channels: Annotated[int, typer.Option(help="Channels of an image, with --arch.")] = 3,
    classes: Annotated[int, typer.Option(help="Number of classes, with --arch.")] = 10,
    image_size: Annotated[int, typer.Option(help="Pixels per side, with --arch.")] = 32,
    data: Annotated[
        str | None, typer.Option(help="Public images to check each copy's accuracy on.")
    ] = None,
    data_dir: Annotated[str, typer.Option(help="Folder of those images.")] = "",
    no_fidelity_check: Annotated[
        bool, typer.Option("--no-fidelity-check", help="Issue without checking accuracy.")
    ] = False,
    code_length: Annotated[int, typer.Option(help="Bits of a fingerprint.")] = 304,
    code: Annotated[str, typer.Option(help="Kind of codewords: flat, nuida or arcsine.")] = "flat",
    code_coalition: Annotated[
        int, typer.Option(help="Coalition size that nuida or arcsine codewords are made for.")
    ] = 4,
    strength: Annotated[float, typer.Option(help="Size of the mark.")] = 0.2,
    max_accuracy_drop: Annotated[float, typer.Option(help="A copy may lose this much.")] = 0.01,
    queries: Annotated[
        int, typer.Option(help="Answers that tell copies apart, in each pool; 0 for none.")
    ] = 0,
    query_pools: Annotated[int, typer.Option(help="Pools of query images.")] = 1,
    sign_copies: Annotated[
        bool, typer.Option("--sign", help="Sign each copy too, as smdl sign does.")
    ] = False,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fingerprint a trained model: one checked copy per customer.

    The model must say what it is (our own files do) or be described by --arch and its companions.
    """
    if (data is None) != no_fidelity_check:
        raise ConfigError("say which public images to check with (--data), or --no-fidelity-check")
    values = {
        "where": "server",
        "code_length": code_length,
        "code": code,
        "code_coalition": code_coalition,
        "strength": strength,
        "max_accuracy_drop": max_accuracy_drop,
        "queries": queries,
        "query_pools": query_pools,
        "imprint_images": False,
        "demo_customers": 0,
    }
    config = checked(FingerprintConfig, values)
    if sign_copies:
        bundles.require_installed()
    owner = open_home(home, passphrase_file)
    file = handover.read(model, [key.sealing_key() for key in owner.keys])
    spec = (
        ModelSpec(arch, channels, classes, image_size)
        if arch
        else ModelSpec.from_metadata(file.metadata)
    )
    spec.check_sizes()
    images = _public_images(spec, data, data_dir) if data else None
    gate = FidelityGate(images, max_accuracy_drop)
    names = customers or list(owner.registry.customers())
    if not names:
        raise ConfigError("the registry has no customers; say: smdl customer add NAME")
    campaign = issuing.open_campaign(owner, spec, file.weights, config, gate)
    results = list(issuing.issue(owner, campaign, names, out))
    if sign_copies:
        copies = [result.path for result in results if result.path]
        # Of a command that was interrupted and said again, some may be signed.
        sign_all(owner, [path for path in copies if not bundles.signature_of(path).exists()])
    if as_json:
        print_json(tables.issue_json(campaign, results))
    else:
        tables.print_copies(campaign.base_accuracy, [tables.copy_row(r) for r in results])
    issuing.require_issued(results)


def _public_images(spec: ModelSpec, data: str, directory: str) -> Images:
    images = load_test(DataConfig.of_one_party(data, directory, spec.image_size))
    require_fit(images, spec)
    return images
