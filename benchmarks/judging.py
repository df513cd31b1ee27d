"""Does a judge agree with the verifier on 100 suspects, and refuse 100 tampered packages?

Usage: python -m benchmarks.judging HOME RUN OUT [--suspects N] [--tampered N]

HOME and RUN are those of a run with queries (``make demo`` leaves .demo/home and .demo/run); HOME
is copied and not changed. Each suspect is verified. Whoever names somebody discloses the evidence,
and the judge must confirm the same customers by the same tests with the same figures. Where nobody
is named, a lying owner accuses all customers at once, with their true keys opened, and the judge
must confirm none. Then packages are tampered with (benchmarks/tampering.py), one change each. OUT
gets judging.json. Exits 1 if judge and verifier disagree, or a tampered package is accepted.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import tampering
from benchmarks.judging_suspects import Run, Suspect, suspects
from benchmarks.tampering_material import disclosed, trust_in
from smdl_flower import commitments, judging, verifying, weights
from smdl_flower.blackbox.asking import Predictor
from smdl_flower.confirming import Confirmation
from smdl_flower.errors import SmdlError
from smdl_flower.evidence import Accusation, Verdict, Witness, versions
from smdl_flower.home import OwnerHome
from smdl_flower.judging import Judgement
from smdl_flower.questioning import Question, question
from smdl_flower.rehearing import Asking
from smdl_flower.suspects.reading import read as read_suspect

FORMAT = "judging/1"
EXACT = 1e-9  # relative: both compute on this machine


@dataclass(frozen=True)
class Agreement:
    """One suspect, twice.

    Attributes:
        suspect: What it is.
        group: What kind.
        verified: Customers named, or the error, by the verifier.
        judged: The same by the judge.
        evidence: Of the strongest witnesses.
        alignment: How it was read.
        difference: Largest relative difference of a score or log10 p.
        agree: Whether all is the same.
        seconds: Both together.
    """

    suspect: str
    group: str
    verified: tuple[str, ...]
    judged: tuple[str, ...]
    evidence: tuple[str, ...]
    alignment: str
    difference: float
    agree: bool
    seconds: float


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path, metavar="HOME")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--suspects", type=int, help="only every so-many-th")
    parser.add_argument("--tampered", type=int, help="only every so-many-th")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run = opened(arguments.home, arguments.run, place / "home")
        agreements = []
        for agreement in compared(run, place / "suspects", arguments.suspects or 1):
            agreements.append(agreement)
            print(agreement, flush=True)
        refusals = list(
            tampering.tried(run, place / "tampering", every=arguments.tampered or 1, tell=print)
        )
    document = {
        "format": FORMAT,
        "agreements": [asdict(a) for a in agreements],
        "tampered": [asdict(r) for r in refusals],
        "versions": versions(),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "judging.json").write_text(json.dumps(document, indent=2) + "\n")
    show(agreements, refusals)
    right = all(a.agree for a in agreements) and all(r.refused for r in refusals)
    sys.exit(0 if right else 1)


def opened(home: Path, run: Path, copy: Path) -> Run:
    """Return a run, with a copy of the owner's home."""
    shutil.copytree(home, copy)
    owner = OwnerHome.open(copy)
    for model in owner.base_models():  # of an early version: as if it were issued today
        commitments.publish(owner, model)
    return Run.open(owner, run)


def compared(run: Run, place: Path, every: int = 1) -> Iterator[Agreement]:
    """Verify and judge every so-many-th suspect."""
    for number, suspect in enumerate(suspects(run)):
        if number % every == 0:
            folder = place / f"{number:03d}"
            folder.mkdir(parents=True)
            yield agreement(run, suspect, folder)
            shutil.rmtree(folder)


def agreement(run: Run, suspect: Suspect, place: Path) -> Agreement:
    """Verify a suspect, have the evidence judged, and compare."""
    made = suspect.make(place)
    started = time.monotonic()
    try:
        verdict = _verified(run, made)
        verified: tuple[str, ...] = tuple(sorted(a.customer for a in verdict.accused))
    except SmdlError as error:
        verdict, verified = _nobody(run, made), (type(error).__name__,)
    told = verdict if verdict.accused else _all_accused(run, verdict)
    evidence = disclosed(run, told, place / "evidence")
    found: tuple[Confirmation, ...] = ()
    try:
        found = _judged(run, evidence, made).confirmations
        judged: tuple[str, ...] = tuple(sorted(c.customer for c in found if c.confirmed))
    except SmdlError as error:
        judged = (type(error).__name__,)
    difference = _difference(verdict, found) if verdict.accused else 0.0
    return Agreement(
        suspect.name,
        suspect.group,
        verified,
        judged,
        tuple(sorted({a.witnesses[0].evidence for a in verdict.accused})),
        verdict.alignment,
        difference,
        verified == judged and difference <= EXACT,
        round(time.monotonic() - started, 1),
    )


def _verified(run: Run, suspect: "Path | Predictor") -> Verdict:
    if isinstance(suspect, Path):
        return verifying.verify(run.home, suspect)
    return question(run.home, suspect, "https://suspect.example", Question(pool=1))


def _judged(run: Run, evidence: Path, suspect: "Path | Predictor") -> Judgement:
    """Judge; a suspect that can be asked is judged by the record and asked anew, to one end."""
    trust = trust_in(run)
    if isinstance(suspect, Path):
        return judging.judge(evidence, suspect, trust=trust)
    recorded = judging.judge(evidence, trust=trust)
    anew = judging.judge(evidence, Asking(suspect), trust=trust)
    same = [c.witnesses for c in recorded.confirmations] == [
        c.witnesses for c in anew.confirmations
    ]
    if not same:
        raise RuntimeError("the same answers were judged in two ways")
    return anew


def _nobody(run: Run, suspect: "Path | Predictor") -> Verdict:
    """What a lying owner writes about a suspect that cannot be compared."""
    if not isinstance(suspect, Path):
        raise TypeError("each suspect that is asked answers")
    template = _verified(run, _a_copy(run, suspect.parent / "template.safetensors"))
    try:
        digest = read_suspect(suspect).sha256
    except SmdlError:  # refused: nobody can sign for what is in it
        digest = "0" * 64
    file = replace(template.suspect, path=str(suspect), sha256=digest)
    return replace(template, suspect=file, accused=())


def _a_copy(run: Run, path: Path) -> Path:
    weights.write(path, run.copies[run.customers[0]])
    return path


def _all_accused(run: Run, verdict: Verdict) -> Verdict:
    """What a lying owner makes of a verdict that names nobody."""
    level = math.log10(
        verdict.max_false_accusation * 6 / math.pi**2 / verdict.words / verdict.hypotheses
    )
    words = "queries" if verdict.queries else "payload"
    invented = Witness(words, 9000.0, -40.0, level, "symmetric", 1)  # type: ignore[arg-type]
    accused = tuple(Accusation(c, run.model.model_id, (invented,)) for c in run.customers)
    return replace(verdict, accused=accused, model_id=run.model.model_id)


def _difference(verdict: Verdict, found: Iterable[Confirmation]) -> float:
    """Largest relative difference; infinite if other tests accuse or thresholds differ."""
    theirs = {c.customer: {(w.test, w.stage): w for w in c.witnesses} for c in found}
    largest = 0.0
    for accusation in verdict.accused:
        ours = {(w.test, w.stage): w for w in accusation.witnesses}
        other = theirs.get(accusation.customer, {})
        if set(ours) != set(other):
            return math.inf
        for which, witness in ours.items():
            for name in ("score", "log10_p", "threshold"):
                one, two = getattr(witness, name), getattr(other[which], name)
                largest = max(largest, abs(one - two) / max(abs(one), 1e-12))
    return largest


def show(agreements: list[Agreement], refusals: list[tampering.Refusal]) -> None:
    """Print a table of each half."""
    console = Console()
    table = Table("suspects", "number", "named", "agree", "largest difference", title="Agreement")
    for group in dict.fromkeys(a.group for a in agreements):
        of = [a for a in agreements if a.group == group]
        named = sum(bool(a.evidence) for a in of)
        agree = sum(a.agree for a in of)
        worst = max(a.difference for a in of)
        table.add_row(group, str(len(of)), str(named), str(agree), f"{worst:.1e}")
    console.print(table)
    table = Table("tampered with", "packages", "refused", "why", title="Tampering")
    for group in dict.fromkeys(r.group for r in refusals):
        some = [r for r in refusals if r.group == group]
        why = ", ".join(f"{n} {name}" for name, n in Counter(r.how for r in some).items())
        table.add_row(group, str(len(some)), str(sum(r.refused for r in some)), why)
    console.print(table)
    console.print(
        f"{sum(a.agree for a in agreements)} of {len(agreements)} agree; "
        f"{sum(r.refused for r in refusals)} of {len(refusals)} tampered packages are refused"
    )


if __name__ == "__main__":
    main()
