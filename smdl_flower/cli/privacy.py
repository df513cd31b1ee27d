"""``smdl privacy``: what a run may claim about its participants' images."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from smdl_flower import privacy_page
from smdl_flower.cli.options import JsonOption, console, print_json
from smdl_flower.errors import MissingFileError, PrivacyError

FILE = "privacy.json"
FORMATS = ("smdl-privacy/1", "smdl-privacy/2")


def privacy(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")], as_json: JsonOption = False
) -> None:
    """Say what a run may claim about its participants' images, and what it rests on.

    An epsilon is shown only if every check passed.
    """
    document, attacks = _read(run / FILE), privacy_page.attack_scores(run)
    if as_json:
        print_json({**document, "attacks": attacks})
        return
    console.print(Text(f"{document['claim']}.", style="bold"))
    if document["format"] == FORMATS[0]:
        return
    _print_partition(document)
    if document["channel"] == "dp":
        _print_mechanism(document)
    if attacks:
        _print_attacks(attacks)


def _read(path: Path) -> dict[str, Any]:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise MissingFileError(f"{path}: there is none; name the folder of a run") from None
    except ValueError:
        raise PrivacyError(f"{path}: not JSON; nothing can be claimed from it") from None
    if not isinstance(document, dict) or document.get("format") not in FORMATS:
        raise PrivacyError(f"{path}: not of a format this version reads ({', '.join(FORMATS)})")
    found: dict[str, Any] = document
    return found


def _print_partition(document: dict[str, Any]) -> None:
    table = Table(title=f"Privacy partition {document['partition_sha256'][:16]}")
    for heading in ("tensor", "label", "shape", "SHA-256 of public values"):
        table.add_column(heading)
    for tensor in document["partition"]["tensors"]:
        shape = " x ".join(map(str, tensor["shape"]))
        table.add_row(tensor["name"], tensor["label"], shape, tensor["sha256"][:16])
    console.print(table)


def _print_mechanism(document: dict[str, Any]) -> None:
    console.print(f"Unit of privacy: {document['unit']}.")
    how = document["mechanism"]
    console.print(
        f"Clipping norm {how['max_grad_norm']:g}, sigma {how['sigma']:.3f}, sampling rate "
        f"{how['sample_rate']:g}, {how['steps_per_round']} steps a round; delta "
        f"{document['delta']:g}; {document['accountant']}; randomness: {document['rng']}"
    )
    if document["epsilon"] is not None:
        table = Table(title="Epsilon spent")
        for heading in ("participant", "after the first round", "in all", "cap", "charges"):
            table.add_column(heading, justify="right")
        for row in privacy_page.spent_rows(document):
            first = document["participants"][row["participant"]][0]["epsilon"]
            table.add_row(
                *(row["participant"], f"{first:.3f}", f"{row['epsilon']:.3f}"),
                *(f"{row['cap']:g}", str(row["charges"])),
            )
        console.print(table)
    for check in document["checks"]:
        console.print(f"{'checked' if check['passed'] else 'FAILED '}: {check['check']}")
    for word, sentences in (
        ("Assumed", document["trust"]),
        ("Not covered", document["not_covered"]),
    ):
        for sentence in sentences:
            console.print(f"{word}: {sentence}", markup=False, highlight=False)


def _print_attacks(attacks: dict[str, Any]) -> None:
    table = Table(title="Attacks on participants (smdl bench --privacy)")
    for heading in ("attack", "control", "this run", "a guess", ""):
        table.add_column(heading)
    for row in attacks["attacks"]:
        scores = (privacy_page.score_text(row[part]) for part in ("control", "protected"))
        table.add_row(row["attack"], *scores, privacy_page.guess_text(row), row["verdict"])
    console.print(table)
