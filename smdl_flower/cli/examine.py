"""``smdl verify``: whose copy is this, or whose model of training?"""

from pathlib import Path
from typing import Annotated

import typer

from smdl_flower import files, questioning, report, verifying
from smdl_flower.blackbox import asking
from smdl_flower.cli import tables
from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    messages,
    open_home,
    print_json,
)
from smdl_flower.errors import ConfigError
from smdl_flower.questioning import Question


def verify(
    suspect: Annotated[
        Path | None, typer.Argument(help="Suspect model, a safetensors file.")
    ] = None,
    predictor: Annotated[
        str | None,
        typer.Option(help="Suspect that can only be asked: module:function, images -> answers."),
    ] = None,
    pool: Annotated[
        int, typer.Option(min=1, help="Pool of query images to ask; asking discloses it.")
    ] = 1,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for a batch of questions.")
    ] = asking.TIMEOUT,
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

    A suspect of which there is no file is asked: --predictor names a function that is given images,
    uint8 (n, channels, height, width), and returns labels (n,) or probabilities (n, classes).

    Exit codes: 0 somebody is named, 10 nobody is, 11 the file cannot be compared, 3 it is unsafe or
    unsupported, 4 key or registry are damaged, 2 wrong usage, 1 internal error.
    """
    for name in ("verdict.json", "report.html"):
        if report_directory:
            files.refuse_to_overwrite(report_directory / name)
    if (suspect is None) == (predictor is None):
        raise ConfigError("name either a suspect file or --predictor, not both")
    asked = asking.load(predictor) if predictor else None
    owner = open_home(home, passphrase_file)
    with messages.status("Comparing with every customer's fingerprint ..."):
        if suspect:
            verdict = verifying.verify(
                owner, suspect, model_id=model, max_false_accusation=max_false_accusation
            )
        if predictor and asked:
            what = Question(model, pool, timeout, max_false_accusation)
            verdict = questioning.question(owner, asked, predictor, what)
    document = verdict.to_json()
    if report_directory:
        files.write_json(report_directory / "verdict.json", document)
        report.write_verdict_report(verdict, report_directory / "report.html")
    if as_json:
        print_json(document)
    else:
        tables.print_verdict(verdict)
    raise typer.Exit(verdict.exit_code)
