"""What participants declared, round by round, and the ``privacy.json`` that follows from it."""

import json
from pathlib import Path
from typing import Any

from smdl_flower import files
from smdl_flower.config import RunConfig
from smdl_flower.errors import PrivacyError
from smdl_flower.privacy import reporting
from smdl_flower.privacy.declaration import Declaration, Terms
from smdl_flower.privacy.partition import PrivacyPartition
from smdl_flower.weights import Weights

FILE = "privacy.json"
Declared = dict[str, list[dict[str, Any]]]


class PrivacyRecord:
    """Judges declarations, keeps them, and writes ``privacy.json`` after each round.

    Args:
        run: The run config.
        split: The run's partition.
        folder: Of the run.
        declared: Of the completed rounds of an interrupted run.
    """

    def __init__(
        self,
        run: RunConfig,
        split: PrivacyPartition,
        folder: Path,
        declared: Declared | None = None,
    ) -> None:
        self.terms = Terms.of(run, split)
        self._run = run
        self._split = split
        self._path = folder / FILE
        self._declared: Declared = {k: list(v) for k, v in (declared or {}).items()}
        self._rounds = 0

    @classmethod
    def begin(
        cls, run: RunConfig, split: PrivacyPartition, folder: Path, *, completed: int
    ) -> "PrivacyRecord":
        """Return the record of a run that begins, or goes on, and write it down."""
        before = {}
        if completed:
            before = declared_before(Path(run.federation.resume_from), completed)
        record = cls(run, split, folder, before)
        record._rounds = completed
        record.write()
        return record

    def accept(self, server_round: int, participant: str, declared: Declaration) -> None:
        """Keep a declaration that is what the run, with these terms, asks for.

        Raises:
            PrivacyError: It is not, or the participant has replied in this round already.
        """
        earlier = self._declared.get(participant, [])
        if any(line["round"] == server_round for line in earlier):
            raise PrivacyError(f"participant {participant} has replied in this round already")
        if self.terms:
            self.terms.check(declared, rounds=len(earlier) + 1)
        line = {"round": server_round, **vars(declared)}
        self._declared.setdefault(participant, []).append(line)

    def round_done(self, server_round: int, model: Weights, metrics: dict[str, float]) -> None:
        """Write the document anew."""
        del model, metrics
        self._rounds = server_round
        self.write()

    def write(self) -> None:
        """Write ``privacy.json``."""
        document = reporting.document(self._run, self._split, self._declared, self._rounds)
        files.write_json(self._path, document)


def declared_before(earlier: Path, rounds: int) -> Declared:
    """Return what was declared in the completed rounds of an interrupted run."""
    path = earlier / FILE
    document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {
        participant: [line for line in lines if line["round"] <= rounds]
        for participant, lines in document.get("participants", {}).items()
    }
