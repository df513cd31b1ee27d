"""``bench.json``: results so far, written after each, so that an interrupted bench goes on.

A code under the owner's key covers the document: results that were edited are not added to.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smdl_flower import files
from smdl_flower.bench.plan import Row
from smdl_flower.errors import ConfigError, IntegrityError
from smdl_flower.fingerprint.keys import OwnerKey

FORMAT = "smdl-bench/1"
NAME = "bench.json"


@dataclass(frozen=True)
class Trace:
    """The strongest witness against a guilty customer, and its carrier score if that spoke."""

    customer: str
    evidence: str
    log10_p: float
    threshold: float
    carrier_score: float | None


@dataclass(frozen=True)
class Result:
    """One stolen model and the verdict on it.

    Attributes:
        guilty: Customers whose copy was used: who should be named.
        seed: Of an attack that draws at random.
        traces: The guilty who were named.
        wrongly_named: Everybody else who was named.
        innocents: Customers compared who are not guilty.
        exit_code: Of ``smdl verify``; None if the attack could not be carried out.
        reason: Why there is no verdict, else empty.
        alignment: How the suspect was aligned, by the verdict.
        bit_error_rate: Against the bits of the one copy used.
        highest_unnamed_score: Carrier score that no unnamed customer exceeds.
        guilty_scores: Carrier score of each guilty customer, named or not.
        noise: rho of what was leaked, see :mod:`efficiency`; None without a comparable suspect.
        accuracy_before: Of the copies, mean; None without copies.
        accuracy_after: Of what was leaked.
        attack_seconds: The thief's time.
        verify_seconds: The owner's time.
    """

    guilty: tuple[str, ...]
    seed: int | None
    traces: tuple[Trace, ...] = ()
    wrongly_named: tuple[str, ...] = ()
    innocents: int = 0
    exit_code: int | None = None
    reason: str = ""
    alignment: str | None = None
    bit_error_rate: float | None = None
    highest_unnamed_score: float | None = None
    guilty_scores: Mapping[str, float] = field(default_factory=dict)
    noise: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    attack_seconds: float = 0.0
    verify_seconds: float = 0.0

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Result":
        """Read back what ``asdict`` gave."""
        lists = {
            "guilty": tuple(document["guilty"]),
            "traces": tuple(Trace(**trace) for trace in document["traces"]),
            "wrongly_named": tuple(document["wrongly_named"]),
        }
        return cls(**{**document, **lists})


class Record:
    """The results of a bench, on disk from the first one on."""

    def __init__(self, path: Path, key: OwnerKey, identity: Mapping[str, Any]) -> None:
        """Start a record, or go on with the one that is there.

        Args:
            path: Of the file.
            key: Seals it.
            identity: Run, plan and code that results must share to stand in one table.

        Raises:
            IntegrityError: The file is not as this owner left it.
            ConfigError: It belongs to another run, plan or version of the code.
        """
        self._path = path
        self._key = key
        self._identity = dict(identity)
        self._results: dict[str, list[Result]] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._load()

    def rows(self) -> list[Row]:
        """Return the rows that have results, in order."""
        return [Row(a["attack"], a["settings"], a["copies"]) for a in self._rows.values()]

    def results(self, row: Row) -> Sequence[Result]:
        """Return the results of a row so far."""
        return tuple(self._results.get(_key(row), ()))

    def has(self, row: Row, guilty: Sequence[str], seed: int | None) -> bool:
        """Return whether this was tried already."""
        return any((r.guilty, r.seed) == (tuple(guilty), seed) for r in self.results(row))

    def add(self, row: Row, about: Mapping[str, Any], result: Result) -> None:
        """Append a result, and ``about`` its row, and write the file."""
        self._rows.setdefault(_key(row), {**asdict(row), **about})
        self._results.setdefault(_key(row), []).append(result)
        self.save()

    def describe(self, row: Row, about: Mapping[str, Any]) -> None:
        """Add to what is said of a row that has results."""
        self._rows[_key(row)] |= about

    def save(self, totals: Mapping[str, Any] | None = None) -> None:
        """Write the file; ``totals`` of a bench that is complete."""
        files.write_json(self._path, self.document(totals))

    def document(self, totals: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the document specified in docs/formats.md."""
        rows = [
            {**about, "results": [asdict(result) for result in self._results[key]]}
            for key, about in self._rows.items()
        ]
        document = {
            "format": FORMAT,
            "identity": self._identity,
            "rows": rows,
            "totals": dict(totals) if totals else None,
        }
        return {**document, "seal": self._seal(document)}

    def _load(self) -> None:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            seal = document.pop("seal")
            genuine = hmac.compare_digest(seal, self._seal(document))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            genuine = False
        if not genuine:
            raise IntegrityError(
                f"{self._path}: unreadable, or was changed since this owner's bench wrote it; "
                "remove it to start anew"
            )
        self._require_same(document)
        for about in document["rows"]:
            results = about.pop("results")
            key = _key(Row(about["attack"], about["settings"], about["copies"]))
            self._rows[key] = about
            self._results[key] = [Result.from_json(result) for result in results]

    def _require_same(self, document: Mapping[str, Any]) -> None:
        found, asked = document["identity"], self._identity
        different = [k for k in sorted({*found, *asked}) if found.get(k) != asked.get(k)]
        if document["format"] != FORMAT or different:
            raise ConfigError(
                f"{self._path} holds another bench (different: {', '.join(different) or 'format'});"
                " choose another --out, or remove it to start anew"
            )

    def _seal(self, document: Mapping[str, Any]) -> str:
        # Through JSON and back, so that tuples and lists give the same text.
        text = json.dumps(json.loads(json.dumps(document)), sort_keys=True)
        return self._key.authenticate("bench", text.encode()).hex()


def _key(row: Row) -> str:
    return json.dumps([row.attack, dict(row.settings), row.copies], sort_keys=True)
