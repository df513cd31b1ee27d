"""What people see at the end of a command."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from smdl_flower.cli.options import console
from smdl_flower.evidence import TracedBroadcast, Verdict, Witness
from smdl_flower.issuing import Campaign, IssueResult
from smdl_flower.own_images import Inspection


def print_run(outcome: Mapping[str, Any]) -> None:
    """Print the closing table of a run."""
    if outcome["where"] == "offline":
        console.print(f"Training is done. Next, where the owner's home is: {outcome['next']}")
        return
    console.print(
        f"Base model {outcome['model_id']}: {outcome['marked_weights']:,} marked weights, "
        f"{outcome['code_length']} bits per copy"
    )
    print_copies(outcome["base_accuracy"], outcome["copies"])
    _print_deliveries(outcome.get("deliveries"))


def print_copies(base_accuracy: float | None, copies: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per customer."""
    table = Table(title=f"Issued copies (base model: {_percent(base_accuracy)})")
    asked = any(copy.get("query_bits") is not None for copy in copies)
    headings = ["customer", "accuracy", "bits read back", "carrier score", "issued"]
    if asked:
        headings.insert(3, "bits in answers")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "customer" else "right")
    for copy in copies:
        table.add_row(
            copy["customer"],
            _percent(copy["accuracy"]),
            str(copy["matching_bits"]),
            *([str(copy["query_bits"])] if asked else []),
            f"{copy['carrier_score']:.0f}",
            "yes" if copy["path"] else f"no: {copy['reason']}",
        )
    console.print(table)
    _print_imprints([copy["imprint"] for copy in copies if copy.get("imprint")])


def _print_imprints(reports: Sequence[Mapping[str, Any]]) -> None:
    """Say how images that carry a customer's word were read, by the key and by its copy."""
    if not reports:
        return
    read = min(report["bits_read"] for report in reports)
    accuracies = [report["accuracy"] for report in reports]
    console.print(
        f"Test images with {reports[0]['bits']} invisible bits in them (PSNR at least "
        f"{min(report['psnr_least'] for report in reports):.1f} dB): {read:.2%} of the bits read "
        f"back, accuracy of the copies {_percent(min(accuracies))} to {_percent(max(accuracies))}"
    )


def _print_deliveries(deliveries: Sequence[Mapping[str, Any]] | None) -> None:
    """Say who has its copy, and to whom the owner must hand its file."""
    if deliveries is None:
        return
    done = [d["customer"] for d in deliveries if d["delivered"]]
    console.print(f"Delivered over Flower: {', '.join(done) or 'nobody'}")
    for d in deliveries:
        if not d["delivered"]:
            line = f"To be handed over by other means: {d['customer']} ({d['reason']})"
            console.print(line, markup=False, highlight=False)


def print_verdict(verdict: Verdict) -> None:
    """Print a verdict in words, then the evidence."""
    style = "bold red" if verdict.names_somebody else "bold"
    console.print(Text(verdict.summary(), style=style))
    rows = [
        (accusation.customer, witness.label(), witness)
        for accusation in verdict.accused
        for witness in accusation.witnesses
    ]
    _print_evidence("customer", rows)
    sent = [(p.who, f"carrier, round {p.round}", p) for p in verdict.participants]
    _print_evidence("participant", sent)
    bits = len(verdict.payload.bits)
    console.print(
        f"{verdict.customers} customers and {verdict.broadcasts} models sent in training compared; "
        f"model {verdict.model_id or 'none'}; best codeword: {verdict.payload.matching_bits} of "
        f"{bits} bits"
    )
    asked = verdict.queries
    if asked:
        console.print(
            f"Pool {asked.pool}: {asked.one_of_two} of {asked.images} answers are one of the two "
            "classes that tell copies apart"
        )
    decoys = verdict.decoys
    if decoys:
        console.print(
            f"{decoys.count} decoys (never issued): mean {decoys.mean:.2f}, standard deviation "
            f"{decoys.deviation:.2f}, highest {decoys.highest:.1f}, as innocents must score"
        )
    for remark in verdict.remarks:
        console.print(f"Note: {remark}", markup=False, highlight=False)


def _print_evidence(who: str, rows: Sequence[tuple[str, str, Witness | TracedBroadcast]]) -> None:
    if not rows:
        return
    table = Table()
    for heading in (who, "evidence", "score", "log10 p (innocent)", "accuses below"):
        table.add_column(heading, justify="left" if heading in (who, "evidence") else "right")
    for name, evidence, found in rows:
        numbers = (found.score, found.log10_p, found.threshold)
        table.add_row(name, evidence, *(f"{number:.1f}" for number in numbers))
    console.print(table)


def print_images(found: Inspection, classes: Sequence[str] | None) -> None:
    """Print how many images of each class there are, and what is wrong with them."""
    table = Table()
    table.add_column("class")
    table.add_column("images", justify="right")
    for name in sorted({*found.paths, *(classes or ())}):
        table.add_row(Text(name), f"{len(found.paths.get(name, ())):,}")
    console.print(table)
    if found.ignored:
        console.print(f"{len(found.ignored)} other files are not looked at")
    for problem in found.problems:
        console.print(problem.text, markup=False, highlight=False)
    wrong = len(found.problems)
    console.print(f"{found.count:,} images: {wrong or 'no'} problem{'s' if wrong > 1 else ''}")


def issue_json(campaign: Campaign, results: Sequence[IssueResult]) -> dict[str, Any]:
    """Return the document that ``smdl issue --json`` prints."""
    return {
        "format": "smdl-issue/1",
        "model_id": campaign.model.model_id,
        "base_accuracy": campaign.base_accuracy,
        "copies": [copy_row(result) for result in results],
    }


def copy_row(result: IssueResult) -> dict[str, Any]:
    """Return a result as plain values."""
    return {**vars(result), "path": str(result.path) if result.path else None}


def _percent(value: float | None) -> str:
    return "not checked" if value is None else f"{value:.1%}"
