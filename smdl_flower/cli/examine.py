"""``smdl verify``: whose copy is this, or whose model of training?"""

from pathlib import Path
from typing import Annotated

import typer

from smdl_flower import files, report, verifying
from smdl_flower.cli import tables
from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    messages,
    open_home,
    print_json,
)


def verify(
    suspect: Annotated[Path, typer.Argument(help="Suspect model, a safetensors file.")],
    report_directory: Annotated[
        Path | None, typer.Option("--report", help="Write verdict.json and report.html here.")
    ] = None,
    max_false_accusation: Annotated[
        float, typer.Option(help="Bound on the chance of naming any innocent.")
    ] = verifying.DEFAULT_BOUND,
    model: Annotated[
        str | None, typer.Option("--model", help="Compare with this model id only.")
    ] = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whose copy a model is, or which participant was sent it in training; or name nobody.

    Exit codes: 0 somebody is named, 10 nobody is, 11 the file cannot be compared, 3 it is unsafe or
    unsupported, 4 key or registry are damaged, 2 wrong usage, 1 internal error.
    """
    for name in ("verdict.json", "report.html"):
        if report_directory:
            files.refuse_to_overwrite(report_directory / name)
    owner = open_home(home, passphrase_file)
    with messages.status("Comparing with every customer's fingerprint ..."):
        verdict = verifying.verify(
            owner, suspect, model_id=model, max_false_accusation=max_false_accusation
        )
    document = verdict.to_json()
    if report_directory:
        files.write_json(report_directory / "verdict.json", document)
        report.write_verdict_report(verdict, report_directory / "report.html")
    if as_json:
        print_json(document)
    else:
        tables.print_verdict(verdict)
    raise typer.Exit(verdict.exit_code)
