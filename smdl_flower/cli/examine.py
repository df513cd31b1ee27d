"""``smdl verify``: whose copy is this, or whose model of training?"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from smdl_flower import custody, evidence_package, files, questioning, verdict_page, verifying
from smdl_flower.blackbox import asking
from smdl_flower.cli import tables
from smdl_flower.cli.asking_options import (
    BatchOption,
    ClassNamesOption,
    HeaderFileOption,
    InputNameOption,
    OutputNameOption,
    PixelsOption,
    PredictorOption,
    ProtocolOption,
    RateOption,
    RetriesOption,
    TimeoutOption,
)
from smdl_flower.cli.options import (
    HomeOption,
    JsonOption,
    PassphraseOption,
    messages,
    open_home,
    print_json,
)
from smdl_flower.cli.predictor import Approach, choose, counted
from smdl_flower.errors import ConfigError
from smdl_flower.evidence import Verdict
from smdl_flower.fingerprint.accusation import DEFAULT_BOUND
from smdl_flower.home import OwnerHome
from smdl_flower.questioning import Question


def verify(
    suspect: Annotated[
        Path | None, typer.Argument(help="Suspect model, a file of any common format or a folder.")
    ] = None,
    predictor: PredictorOption = None,
    pool: Annotated[
        int | None,
        typer.Option(min=1, help="Pool of query images.  [default: one nobody was asked yet]"),
    ] = None,
    timeout: TimeoutOption = asking.TIMEOUT,
    batch_size: BatchOption = None,
    protocol: ProtocolOption = None,
    pixels: PixelsOption = None,
    input_name: InputNameOption = None,
    output_name: OutputNameOption = None,
    class_names: ClassNamesOption = None,
    header_file: HeaderFileOption = None,
    rate: RateOption = None,
    retries: RetriesOption = None,
    report_directory: Annotated[
        Path | None,
        typer.Option("--report", help="New folder for verdict.json and report.html."),
    ] = None,
    disclose: Annotated[
        bool,
        typer.Option(
            "--disclose",
            help="Add to the report what a judge needs: base model and keys of the accused, or the "
            "pool that was asked and their words.",
        ),
    ] = False,
    obtained: Annotated[
        str, typer.Option(help="How the suspect was come by (when, where, by whom); is reported.")
    ] = "",
    max_false_accusation: Annotated[
        float, typer.Option(help="Bound on the chance of naming any innocent.")
    ] = DEFAULT_BOUND,
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
    verdict = replace(verdict, custody=custody.of(owner, verdict, obtained))
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
    if directory:
        files.require_vacant(directory)


def _write_report(owner: OwnerHome, verdict: Verdict, directory: Path, *, disclose: bool) -> None:
    left = evidence_package.require_disclosable(owner, verdict) if disclose else []
    with files.new_folder(directory) as draft:
        files.write_json(draft / evidence_package.VERDICT, verdict.to_json())
        verdict_page.write(verdict, draft / "report.html")
        if disclose:
            evidence_package.write(owner, verdict, draft)
    if left:
        names = ", ".join(left)
        messages.print(f"A judge cannot confirm {names}: {evidence_package.CLOSED_BIASES}")


def _require_one(suspect: Path | None, predictor: str | None, asking_options: bool) -> None:
    if (suspect is None) == (predictor is None):
        raise ConfigError("name either a suspect file or --predictor, not both")
    if suspect and asking_options:
        raise ConfigError("--pool, --batch-size, --protocol and the like go with --predictor")
