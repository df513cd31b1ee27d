"""``smdl verify``: whose copy is this, or whose model of training?"""

from pathlib import Path
from typing import Annotated

import typer

from smdl_flower import evidence_package, files, questioning, report, verifying
from smdl_flower.blackbox import asking
from smdl_flower.blackbox.queries import MOST
from smdl_flower.cli import tables
from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    messages,
    open_home,
    print_json,
)
from smdl_flower.cli.predictor import Approach, ProtocolName, choose, counted
from smdl_flower.errors import ConfigError
from smdl_flower.evidence import Verdict
from smdl_flower.home import OwnerHome
from smdl_flower.interface.pixels import Scale
from smdl_flower.questioning import Question


def verify(
    suspect: Annotated[
        Path | None, typer.Argument(help="Suspect model, a file of any common format or a folder.")
    ] = None,
    predictor: Annotated[
        str | None,
        typer.Option(help="Suspect that can only be asked: an address, or module:function."),
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(min=1, help="Pool of query images.  [default: one nobody was asked yet]"),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for a batch of questions.")
    ] = asking.TIMEOUT,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help="Images at a time.  [default: 1 of an address, else 64]"
        ),
    ] = None,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(help="What the address speaks.  [default: smdl]"),
    ] = None,
    pixels: Annotated[
        Scale | None,
        typer.Option(help="kserve: 0 to 255, 0 to 1, or -1 to 1.  [default: signed]"),
    ] = None,
    input_name: Annotated[
        str | None, typer.Option(help="kserve: the model's input.  [default: input-0]")
    ] = None,
    output_name: Annotated[
        str | None, typer.Option(help="kserve: the output to read, if there are several.")
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(help="File of class names, if the address tells these; one a line, in order."),
    ] = None,
    header_file: Annotated[
        Path | None,
        typer.Option(help="Private file of headers to send (Authorization: Bearer ...)."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Most requests a second.  [default: 5]")
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(min=0, max=100, help="Further tries if busy or gone.  [default: 4]"),
    ] = None,
    report_directory: Annotated[
        Path | None, typer.Option("--report", help="Write verdict.json and report.html here.")
    ] = None,
    disclose: Annotated[
        bool,
        typer.Option(
            "--disclose",
            help="Add to the report what a judge needs: base model and keys of the accused.",
        ),
    ] = False,
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

    Files: safetensors, PyTorch state dicts and checkpoints, TorchScript, torch.export, ONNX, a
    Hugging Face folder; also quantised. Told by content, and nothing in them is executed.

    A suspect of which there is no file is asked: --predictor names the address that images are
    posted to, or a function that is given images, uint8 (n, channels, height, width), and returns
    labels (n,), scores (n, classes), or for each image {label: probability} of the likeliest.
    What an address says is kept in HOME/asked: the same command goes on where it was interrupted.

    Exit codes: 0 somebody is named, 10 nobody is, 11 the file cannot be compared, 3 it is unsafe or
    unsupported, 4 key or registry are damaged, 2 wrong usage, 1 internal error.
    """
    _require_place(report_directory, disclose=disclose)
    approach = Approach(
        *(protocol, pixels, input_name, output_name, class_names, header_file, rate, retries)
    )
    _require_one(suspect, predictor, bool(pool or batch_size or approach != Approach()))
    asked = choose(predictor, approach, timeout, batch_size) if predictor else None
    owner = open_home(home, passphrase_file)
    with messages.status("Comparing with every customer's fingerprint ...") as status:
        if suspect:
            verdict = verifying.verify(
                owner, suspect, model_id=model, max_false_accusation=max_false_accusation
            )
        if predictor and asked:
            what = Question(
                *(model, pool, asked.timeout, asked.batch, max_false_accusation),
                logs=owner.path / "asked" if asked.approach else None,
                approach=asked.approach or "",
            )
            asked_so_far = counted(asked.ask, status.update)
            verdict = questioning.question(owner, asked_so_far, predictor, what)
    document = verdict.to_json()
    if report_directory:
        _write_report(owner, verdict, report_directory, disclose=disclose)
    if as_json:
        print_json(document)
    else:
        tables.print_verdict(verdict)
    raise typer.Exit(verdict.exit_code)


def _require_place(directory: Path | None, *, disclose: bool) -> None:
    if directory is None and disclose:
        raise ConfigError("--disclose goes with --report DIR")
    for name in (evidence_package.VERDICT, "report.html", evidence_package.STATEMENT):
        if directory:
            files.refuse_to_overwrite(directory / name)


def _write_report(owner: OwnerHome, verdict: Verdict, directory: Path, *, disclose: bool) -> None:
    if disclose:
        evidence_package.require_disclosable(owner, verdict)
    files.write_json(directory / evidence_package.VERDICT, verdict.to_json())
    report.write_verdict_report(verdict, directory / "report.html")
    if disclose:
        evidence_package.write(owner, verdict, directory)


def _require_one(suspect: Path | None, predictor: str | None, asking_options: bool) -> None:
    if (suspect is None) == (predictor is None):
        raise ConfigError("name either a suspect file or --predictor, not both")
    if suspect and asking_options:
        raise ConfigError("--pool, --batch-size, --protocol and the like go with --predictor")
