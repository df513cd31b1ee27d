"""Can anybody be wrongly named, or a verdict be made to say what is not so? Block E of the attacks.

    python -m benchmarks.disputes OUT [--home HOME --run RUN] [--innocents 1000]

Tries to have an innocent named: by models that are nobody's copy (trained by others, from before
fingerprinting, another owner's copies), by customers and coalitions who frame others, by keys that
are invented after the leak, by forged commitments and evidence, and by changing the registry. Each
group has its control: the same code names, or confirms, where it should.

Without HOME and RUN a small home is made with scenarios/digits-smoke.toml. A home that is given is
copied to OUT first, and only the copy is used. The exit code is 1 if anybody was wrongly named or
anything forged was believed.
"""

import argparse
import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import disputed_models as made
from benchmarks.disputed_models import Case
from smdl_flower import commitments, evidence_package, files, judging, verifying, weights
from smdl_flower.cli.main import run as smdl
from smdl_flower.errors import IntegrityError, NotComparableError
from smdl_flower.evidence import Verdict, versions
from smdl_flower.fingerprint import carriers, embedding, extraction
from smdl_flower.fingerprint.accusation import DEFAULT_BOUND, Level
from smdl_flower.fingerprint.keys import CampaignKey, OwnerKey
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import issue, open_campaign
from smdl_flower.judging import Trust
from smdl_flower.vault import BaseModel

FORMAT = "smdl-flower disputes 1"
SCENARIO = Path(__file__).parents[1] / "scenarios" / "digits-smoke.toml"
SOURCES = {8: "digits", 28: "mnist-5k"}  # images for innocents, by size
KEYS = 10_000


@dataclass
class Row:
    """What a group of attempts came to.

    Attributes:
        group: Of attempts.
        tried: How many.
        wrong: In how many somebody was wrongly named, or something forged was believed.
        right: In how many it was as it should be: who is guilty named, or the forgery refused.
        note: The closest that any came.
    """

    group: str
    tried: int = 0
    wrong: int = 0
    right: int = 0
    note: str = ""


class Bench:
    """A copy of a home, a leaked copy, and the evidence about it."""

    def __init__(self, out: Path, run: Path) -> None:
        self.out = out
        self.home = OwnerHome.open(out / "home")
        model_id = json.loads((run / "run.json").read_bytes())["model_id"]
        self.model: BaseModel = next(m for m in self.home.base_models() if m.model_id == model_id)
        paths = sorted((run / "copies").glob("*.safetensors"))
        self.copies = {path.stem: weights.read(path).weights for path in paths}
        self.customer, self.suspect = paths[0].stem, paths[0]
        commitments.publish(self.home, self.model)  # homes of before there were commitments
        self.evidence = self.evidence_of(self.home, self.suspect, out / "evidence")
        self.published = commitments.of_home(self.home)[-1].digest
        self.trust = Trust(self.home.key.signing_key().public, self.published)

    def verdict(self, case: Case) -> Verdict | None:
        """What the verifier says of a model; None if it cannot be compared."""
        path = self.out / "suspect.safetensors"
        weights.write(path, case.weights, replace=True)
        try:
            return verifying.verify(self.home, path, model_id=self.model.model_id)
        except NotComparableError:
            return None

    def examined(self, group: str, cases: Iterable[Case], *, named: bool) -> Row:
        """Verify models; nobody but the guilty may be named."""
        row, highest = Row(group), 0.0
        for case in track(cases, group, console=Console(stderr=True)):
            verdict = self.verdict(case)
            accused = {a.customer for a in verdict.accused} if verdict else set[str]()
            row.tried += 1
            row.wrong += not accused <= case.guilty
            row.right += bool(accused) == named and accused <= case.guilty
            score = verdict.highest_unnamed_score if verdict else None
            highest = max(highest, score or 0.0)
        row.note = f"highest score of an innocent {highest:.2f}"
        return row

    @staticmethod
    def evidence_of(home: OwnerHome, suspect: Path, folder: Path) -> Path:
        """What ``smdl verify SUSPECT --report FOLDER --disclose`` leaves, without the page."""
        verdict = verifying.verify(home, suspect)
        evidence_package.require_disclosable(home, verdict)
        files.write_json(folder / evidence_package.VERDICT, verdict.to_json())
        evidence_package.write(home, verdict, folder)
        return folder


# ------------------------------------------------------------------------- innocents and framing


def innocents(bench: Bench, count: int) -> Iterator[Row]:
    """Rows of models that are nobody's copy."""
    model, share = bench.model, count // 3
    source = SOURCES[model.spec.image_size]
    other = made.of_other_owner(bench.home, model, bench.out / "other", count - 2 * share)
    for cases in (
        made.trained(model.spec, source, share),
        made.before_fingerprinting(bench.home, model, share),
        other,
    ):
        first = next(cases)
        yield bench.examined(first.group, chain([first], cases), named=False)


def framing(bench: Bench, tries: int) -> Iterator[Row]:
    """Rows of customers who know their own copies, and of who has the master key."""
    cases = list(made.framings(bench.copies, bench.model, tries))
    for group in dict.fromkeys(case.group for case in cases):
        yield bench.examined(group, [c for c in cases if c.group == group], named=True)
    genuine = (Case("", n, c, frozenset({n})) for n, c in islice(bench.copies.items(), 20))
    yield bench.examined("control: genuine copies", genuine, named=True)
    forged = (made.insider(bench.home, bench.model, name) for name in islice(bench.copies, 20))
    yield bench.examined("control: made with the master key", forged, named=True)


# ------------------------------------------------------------------------------------- ambiguity


def ambiguity(bench: Bench) -> Iterator[Row]:
    """Rows of keys invented after the leak, and of evidence made from them."""
    yield invented_keys(bench)
    yield believed("invented key opened to a judge", [partial(open_invented_key, bench)])
    thief = own_home_that_fits(bench)
    yield believed("own home made to fit the leak", thief[:2])
    yield believing("control: the same, before who knows nothing published", thief[2])
    yield believed("commitments forged", [partial(forge_chain, bench, how) for how in CHAINS])
    genuine = partial(judging.judge, bench.evidence, bench.suspect, trust=bench.trust)
    yield believing("control: the genuine evidence", genuine)


def invented_keys(bench: Bench) -> Row:
    """The best of many keys for a leaked copy, with the true base model and way of reading."""
    home, model = bench.home, bench.model
    reading = extraction.read(home.mark(model), weights.read(bench.suspect).weights)
    level = Level(DEFAULT_BOUND, len(home.registry.customers()), verifying.HYPOTHESES)
    scores = [
        carriers.score(
            OwnerKey.generate().campaign(model.digest).customer("mine"), reading.direction
        )
        for _ in track(range(KEYS), "invented keys", console=Console(stderr=True))
    ]
    wrong = sum(score >= level.carrier_threshold() for score in scores)
    own = carriers.score(home.campaign(model).customer(bench.customer), reading.direction)
    note = (
        f"best {max(scores):.2f}, accuses from {level.carrier_threshold():.2f}; control: the true "
        f"key {own:.0f}"
    )
    return Row("keys invented after the leak", KEYS, wrong, KEYS - wrong, note)


def believed(group: str, attempts: Iterable[Callable[[], judging.Judgement]]) -> Row:
    """Have a judge look at evidence; whatever it does not confirm is refused."""
    row = Row(group)
    for attempt in attempts:
        row.tried += 1
        try:
            valid = attempt().valid
            row.note = "valid" if valid else "not confirmed"
        except IntegrityError as error:
            valid, row.note = False, str(error)[-70:]
        row.wrong += valid
        row.right += not valid
    return row


def believing(group: str, attempt: Callable[[], judging.Judgement]) -> Row:
    """A control: what a judge must confirm."""
    row = believed(group, [attempt])
    return Row(group, row.tried, 0, row.wrong, row.note)


def open_invented_key(bench: Bench) -> judging.Judgement:
    """A dishonest owner opens another key than it committed to, and signs that."""
    folder = _copy(bench.evidence, bench.out / "invented")
    (terms,) = folder.rglob(evidence_package.TERMS)
    document = json.loads(terms.read_bytes())
    document["customers"][0]["key"] = OwnerKey.generate().secret.hex()
    files.write_json(terms, document)
    sign_again(bench.home, folder, bench.suspect)
    return judging.judge(folder, bench.suspect, trust=bench.trust)


class ChosenKey(OwnerKey):
    """A master key whose campaign key is not bound to the base model, as ours is."""

    def campaign(self, base_digest: str) -> CampaignKey:
        """Return the same key for all base models, so that one can be made to fit."""
        del base_digest
        return CampaignKey(self.authenticate("chosen", b""))


def own_home_that_fits(bench: Bench) -> list[Callable[[], judging.Judgement]]:
    """Somebody takes a mark of its own off the leaked copy and calls the rest its base model.

    Its own verifier then names its "victim" for the leaked file. What is missing is a statement
    that was published before the leak: the last judge here does not ask for one.
    """
    leaked = weights.read(bench.suspect).weights
    thief = OwnerHome.create(bench.out / "thief" / "home")
    thief = replace(thief, keys=(ChosenKey(thief.key.secret),))
    before = commitments.publish_owner(thief).digest  # published in good time
    thief.registry.add_customers(["victim"])
    setting = made.fingerprint_of(bench.model)
    first = open_campaign(thief, bench.model.spec, leaked, setting, made.UNCHECKED)
    key = first.model.key(thief.key).customer("victim")
    marked = first.mark.layout.flatten(leaked)
    base = 2 * marked - embedding.embed(first.mark, key)
    fitting = first.mark.layout.restore(leaked, base.astype(np.float32))
    second = open_campaign(thief, bench.model.spec, fitting, setting, made.UNCHECKED)
    list(issue(thief, second, ["victim"], bench.out / "thief" / "copies"))
    folder = bench.evidence_of(thief, bench.suspect, bench.out / "thief" / "evidence")
    own = thief.key.signing_key().public
    trusts = (bench.trust, Trust(own, before), Trust(own))
    return [partial(judging.judge, folder, bench.suspect, trust=trust) for trust in trusts]


CHAINS = ("dropped", "swapped", "inserted", "another's", "backdated")


def forge_chain(bench: Bench, how: str) -> judging.Judgement:
    """Evidence with another history of commitments, signed by the owner."""
    folder = _copy(bench.evidence, bench.out / f"chain-{how}")
    place = folder / evidence_package.COMMITMENTS
    paths = sorted(place.glob("*.json"))
    contents = [path.read_bytes() for path in paths]
    statement = commitments.of_home(bench.home)[-1]
    key, said = bench.home.key.signing_key(), statement.predicate
    if how == "dropped":
        contents = contents[1:]
    elif how == "swapped":
        contents = contents[::-1]
    elif how == "inserted":
        contents.insert(1, contents[-1])
    elif how == "another's":
        other = OwnerKey.generate().signing_key()
        contents[-1] = other.sign(statement.subjects, statement.kind, said)
    else:  # the owner itself, with an earlier date: all digests change
        back = {**said, "time": "2000-01-01T00:00:00+00:00"}
        contents[-1] = key.sign(statement.subjects, statement.kind, back)
    for path in paths:
        path.unlink()
    for number, content in enumerate(contents, start=1):
        files.write(place / f"{number:06d}.json", content)
    sign_again(bench.home, folder, bench.suspect)
    return judging.judge(folder, bench.suspect, trust=bench.trust)


def sign_again(home: OwnerHome, folder: Path, suspect: Path) -> None:
    """Sign a package as it is now, as a dishonest owner would."""
    (folder / evidence_package.STATEMENT).unlink()
    subjects = {evidence_package.SUSPECT: weights.read(suspect).sha256}
    subjects |= dict(evidence_package.digests(folder))
    signed = home.key.signing_key().sign(subjects, evidence_package.KIND, {"time": "now"})
    files.write(folder / evidence_package.STATEMENT, signed)


# -------------------------------------------------------------------------------------- registry

COPIES = "SELECT number, body, mac FROM smdl_registry_1 WHERE kind = 'copy' ORDER BY number"
STATEMENTS = {
    "an entry removed": "DELETE FROM smdl_registry_1 WHERE number = 3",
    "the newest removed": "DELETE FROM smdl_registry_1 WHERE number = "
    "(SELECT max(number) FROM smdl_registry_1)",
    "an entry added": "INSERT INTO smdl_registry_1 SELECT number + 1, kind, body, mac FROM "
    "smdl_registry_1 ORDER BY number DESC LIMIT 1",
    "a name changed": "UPDATE smdl_registry_1 SET body = replace(body, 'customer-01', 'x')",
    "a kind changed": "UPDATE smdl_registry_1 SET kind = 'refusal' WHERE kind = 'copy'",
    "all removed": "DELETE FROM smdl_registry_1",
}


def tampering(bench: Bench) -> Iterator[Row]:
    """Rows of changes to registry, vault and commitments by who does not have the master key."""
    other = bench.out / "other" / "home"
    changes: dict[str, Callable[[Path], None]] = {
        **{name: partial(_execute, sql) for name, sql in STATEMENTS.items()},
        "two names swapped": partial(_swap, "body"),
        "two entries swapped": partial(_swap, "body, mac"),
        "head file removed": lambda home: (home / "registry.head").unlink(),
        "another owner's head": lambda home: _take(home, other, "registry.head"),
        "another owner's registry": lambda home: _take(home, other, "registry.db"),
        "base model changed": partial(_flip, "vault/*/base.safetensors"),
        "profile changed": partial(_flip, "vault/*/profile.safetensors"),
        "manifest changed": partial(_flip, "vault/*/model.json"),
    }
    row = Row("registry or vault changed")
    for name, change in changes.items():
        home = _copy(bench.out / "home", bench.out / "tampered")
        change(home)
        row.tried += 1
        try:
            verifying.verify(OwnerHome.open(home), bench.suspect)
            row.wrong += 1
            row.note += f"not noticed: {name}; "
        except IntegrityError:
            row.right += 1
    yield row
    unchanged = OwnerHome.open(_copy(bench.out / "home", bench.out / "tampered"))
    named = [a.customer for a in verifying.verify(unchanged, bench.suspect).accused]
    row = Row("control: an unchanged copy of the home", 1)
    row.right = int(named == [bench.customer])
    yield row


def _execute(statement: str, home: Path) -> None:
    with closing(sqlite3.connect(home / "registry.db")) as database, database:
        assert database.execute(statement).rowcount > 0, statement


def _swap(columns: str, home: Path) -> None:
    """Swap these columns of the first two copies' entries."""
    with closing(sqlite3.connect(home / "registry.db")) as database, database:
        first, second = database.execute(COPIES).fetchmany(2)
        for (number, *_), (_, body, mac) in ((first, second), (second, first)):
            database.execute(
                "UPDATE smdl_registry_1 SET body = ?, mac = CASE ? WHEN 'body' THEN mac ELSE ? END "
                "WHERE number = ?",
                (body, columns, mac, number),
            )


def _take(home: Path, other: Path, name: str) -> None:
    shutil.copyfile(other / name, home / name)


def _flip(pattern: str, home: Path) -> None:
    path = next(home.glob(pattern))
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def _copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


# ------------------------------------------------------------------------------------------ main


def prepared(out: Path, home: Path | None, run: Path | None) -> Path:
    """Put a home into ``out`` and return the run that it issued copies in."""
    if home and run:
        shutil.copytree(home, out / "home")
        return run
    where = ["--home", str(out / "home")]
    simulate = ["simulate", str(SCENARIO), "--engine", "inline", "--out", str(out / "run")]
    for words in (["init", *where], [*simulate, *where, "--set", "demo-customers=20"]):
        if smdl(words) != 0:
            raise SystemExit("no home could be made")
    return out / "run"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="new folder for everything")
    parser.add_argument("--home", type=Path, help="owner's home; with --run")
    parser.add_argument("--run", type=Path, help="a run of it, with copies/ and run.json")
    parser.add_argument("--innocents", type=int, default=1000)
    parser.add_argument("--tries", type=int, default=50, help="customers, coalitions who frame")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    arguments.out.mkdir(parents=True)
    bench = Bench(arguments.out, prepared(arguments.out, arguments.home, arguments.run))
    rows: list[Row] = []
    for row in chain(
        innocents(bench, arguments.innocents),
        framing(bench, arguments.tries),
        ambiguity(bench),
        tampering(bench),
    ):
        rows.append(row)
        _keep(bench, rows, time.monotonic() - begun)
    _print(rows)
    failed_controls = [r for r in rows if r.group.startswith("control") and r.right < r.tried]
    return 1 if any(row.wrong for row in rows) or failed_controls else 0


def _keep(bench: Bench, rows: list[Row], seconds: float) -> None:
    """Write what is known so far."""
    document = {
        "benchmark": FORMAT,
        "model_id": bench.model.model_id,
        "customers": len(bench.home.registry.customers()),
        "rows": [asdict(row) for row in rows],
        "seconds": round(seconds),
        "versions": versions(),
    }
    files.write_json(bench.out / "disputes.json", document, mode=0o644)


def _print(rows: list[Row]) -> None:
    table = Table("group", "tried", "wrong", "named or refused as it should be", "")
    for row in rows:
        table.add_row(row.group, *(f"{n:,}" for n in (row.tried, row.wrong, row.right)), row.note)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
