"""``smdl judge`` and ``smdl commitments``: what others need to believe a verdict."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from smdl_flower import commitments, files, judgement_page, judging, timestamps
from smdl_flower.blackbox import asking
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
    console,
    messages,
    open_home,
    print_json,
)
from smdl_flower.cli.predictor import Approach, choose, counted
from smdl_flower.commitments import Commitment
from smdl_flower.errors import ConfigError
from smdl_flower.evidence import EXIT_NAMED, EXIT_NOBODY
from smdl_flower.home import OwnerHome
from smdl_flower.judging import Judgement, Trust
from smdl_flower.rehearing import Asking

FORMAT = "smdl-judgement/1"
COMMITMENTS_FORMAT = "smdl-commitments/1"
_ABOUT = {
    commitments.OWNER_KIND: "owner",
    commitments.CAMPAIGN_KIND: "model",
    commitments.ROTATION_KIND: "new key",
}


TsaRootOption = Annotated[
    Path | None,
    typer.Option("--tsa-root", help="Certificates (PEM) of trusted time-stamping authorities."),
]


def judge(
    evidence: Annotated[Path, typer.Argument(help="Folder that smdl verify --disclose wrote.")],
    suspect: Annotated[
        Path | None, typer.Argument(help="The file that it is about, if it is about one.")
    ] = None,
    predictor: PredictorOption = None,
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
    key: Annotated[
        str | None,
        typer.Option(help="The owner's published signing key, 64 digits.  [default: do not check]"),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            help="Digest of the newest commitment published before the leak; later ones do not "
            "count.  [default: all count]"
        ),
    ] = None,
    tsa_root: TsaRootOption = None,
    report_directory: Annotated[
        Path | None, typer.Option("--report", help="Write judgement.json and report.html here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute a verdict's accusations anew, without registry or master key.

    Evidence about a file needs the file. Evidence about a suspect that was asked is judged by the
    answers that the owner recorded, or, with --predictor, by asking the suspect the same images
    here: name it as smdl verify did. Whoever is asked can prepare for images that it was asked
    before: that answers have changed refutes nothing. Then name a model of your own, as a control:
    nothing may be confirmed of it.

    Exit codes: 0 all are confirmed, 10 one is not, 4 the evidence was changed or is not what was
    committed to, 3 the suspect is unsafe or unsupported, 11 it cannot be compared.
    """
    approach = Approach(
        *(protocol, pixels, input_name, output_name, class_names, header_file, rate, retries)
    )
    if suspect and predictor:
        raise ConfigError("name either a suspect file or --predictor, not both")
    if not predictor and (batch_size or approach != Approach()):
        raise ConfigError("--batch-size, --protocol and the like go with --predictor")
    if report_directory:
        files.require_vacant(report_directory)
    with messages.status("Computing the accusations anew ...") as status:
        trusted = timestamps.load_roots(tsa_root) if tsa_root else []
        what: Path | Asking | None = suspect
        if predictor:
            chosen = choose(predictor, approach, timeout, batch_size)
            what = Asking(counted(chosen.ask, status.update), chosen.timeout, chosen.batch)
        judgement = judging.judge(evidence, what, trust=Trust(key, published, trusted))
    checked = {"key_checked": key is not None, "published_checked": published is not None}
    document = {"format": FORMAT, "valid": judgement.valid, **asdict(judgement), **checked}
    if report_directory:
        with files.new_folder(report_directory) as draft:
            files.write_json(draft / "judgement.json", document)
            judgement_page.write(judgement, draft / "report.html", **checked)
    if as_json:
        print_json(document)
    else:
        _print(judgement, **checked)
    raise typer.Exit(EXIT_NAMED if judgement.valid else EXIT_NOBODY)


def list_commitments(
    request: Annotated[
        Path | None,
        typer.Option("--stamp-request", help="Write a time-stamp request for the newest here."),
    ] = None,
    response: Annotated[
        Path | None,
        typer.Option("--stamp-response", help="Keep the authority's answer, with --tsa-root."),
    ] = None,
    tsa_root: TsaRootOption = None,
    home: HomeOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was committed to; publish the newest digest before copies go out.

    Better still, have it time-stamped (RFC 3161): the request is a file that any authority takes.
    """
    owner = open_home(home, passphrase_file)
    chain = commitments.of_home_begun(owner)
    if request:
        files.write(request, timestamps.request(chain[-1].envelope), replace=False)
    if response:
        _keep_stamp(owner, chain, response, tsa_root)
    rows = [
        {
            "sha256": c.digest,
            "time": c.predicate["time"],
            "about": _ABOUT[c.kind],
            "model_id": c.model_id or None,
            "customers": c.predicate.get("customers"),
            "stamped": commitments.stamp_file(owner, number).exists(),
        }
        for number, c in enumerate(chain, start=1)
    ]
    public = commitments.signer(owner, chain).public
    if as_json:
        print_json({"format": COMMITMENTS_FORMAT, "signing_key": public, "commitments": rows})
        return
    # A narrow terminal would cut digests short.
    table = Table(Column("digest", overflow="fold"), "time", "about")
    for row in rows:
        about = f"model {row['model_id']}, {row['customers']} customers"
        what = about if row["model_id"] else str(row["about"])
        table.add_row(str(row["sha256"]), str(row["time"]), what)
    console.print(table)
    console.print(f"Newest digest, to publish: {chain[-1].digest}", soft_wrap=True)
    console.print(f"Signing key: {public}", soft_wrap=True)
    console.print(f"Files: {commitments.directory(owner)}", soft_wrap=True)


def _keep_stamp(
    owner: OwnerHome, chain: list[Commitment], response: Path, tsa_root: Path | None
) -> None:
    """Store a time stamp beside the newest statement that it is about."""
    if tsa_root is None:
        raise ConfigError("--stamp-response: name the authority's root certificate, --tsa-root")
    stamp, trusted = timestamps.read(response), timestamps.load_roots(tsa_root)
    at = timestamps.check(stamp, chain[-1].envelope, trusted)
    files.write(commitments.stamp_file(owner, len(chain)), stamp, replace=False)
    messages.print(f"Time-stamped at {at}")


def _print(judgement: Judgement, *, key_checked: bool, published_checked: bool) -> None:
    table = Table("customer", "evidence", "score", "log10 p", "accuses below", "")
    for c in judgement.confirmations:
        said = "confirmed" if c.confirmed else "NOT confirmed"
        for number, w in enumerate(c.witnesses):
            values = (f"{w.score:.1f}", f"{w.log10_p:.1f}", f"{w.threshold:.1f}")
            table.add_row(Text("" if number else c.customer), w.label(), *values, said)
    console.print(table)
    console.print(f"Computed from {judgement.rests_on}.")
    if judgement.rests_on != judging.FILE:
        console.print(f"As a control, {judging.CONTROL}.")
    if judgement.agreeing is not None:
        console.print(
            f"{judgement.agreeing} of {judgement.images} answers are those that were recorded."
        )
    console.print(
        f"Committed to at {judgement.committed_at}, as its signer says, by statement "
        f"{judgement.commitment_sha256}"
        + ("." if published_checked else ": was it published in time (--published checks it)?")
    )
    console.print(
        f"Signed by key {judgement.key_id}"
        + ("." if key_checked else ": compare it with the published one (--key checks it).")
    )
    if judgement.earlier_key_ids:
        earlier = ", then ".join(judgement.earlier_key_ids)
        console.print(f"That key took over from {earlier}, which signed that it does.")
    if judgement.stamped_at:
        console.print(f"Time-stamped at {judgement.stamped_at} by a trusted authority.")
    word = "Valid" if judgement.valid else "Not valid"
    console.print(
        f"{word}: chance of naming any innocent at most {judgement.max_false_accusation:g}, shared "
        f"among {judgement.words:,} fingerprints."
    )
