"""The record of one run on disk: what was asked, what happened round by round, how it ended."""

import datetime
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smdl_flower import files
from smdl_flower.config import FlatConfig
from smdl_flower.evidence import versions
from smdl_flower.flower import checkpoint
from smdl_flower.flower.incidents import Incident, grouped
from smdl_flower.flower.provenance import code_sha256

RUN_FORMAT = "smdl-run/1"
RESOLVED_FORMAT = "smdl-resolved/1"

# The launcher tells the server app where to write by environment: a run config goes to everybody.
RUN_DIRECTORY_VARIABLE = "SMDL_RUN_DIR"
COMMIT_VARIABLE = "SMDL_COMMIT"


class RunFolder:
    """A run's folder; private, since it holds customers' copies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: dict[str, Any] = {}
        self._started = time.monotonic()

    @classmethod
    def from_environment(cls, scenario: str, default_parent: Path) -> "RunFolder":
        """Return the folder the launcher chose, or a new one below ``default_parent``."""
        chosen = os.environ.get(RUN_DIRECTORY_VARIABLE)
        path = Path(chosen) if chosen else default_parent / new_name(scenario)
        files.make_private_directory(path)
        return cls(path)

    def write_resolved(self, flat: FlatConfig) -> None:
        """Record everything needed to run this again."""
        document = {
            "format": RESOLVED_FORMAT,
            "config": dict(flat),
            "seed": flat["seed"],
            "code_sha256": code_sha256(),
            "git_commit": os.environ.get(COMMIT_VARIABLE) or None,
            "versions": versions(),
        }
        files.write_json(self.path / "resolved.json", document)

    def identify(self, run_id: str, *, training_marked: bool) -> None:
        """Say what ``run.json`` is to tell of this run, however it ends."""
        self._identity = {"run_id": run_id, "training_marked": training_marked}

    @property
    def run_id(self) -> str:
        """The run's id, as :meth:`identify` was told."""
        return str(self._identity["run_id"])

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add a round's line to ``metrics.jsonl``."""
        text = json.dumps({**line, "seconds": round(self.seconds(), 3)}) + "\n"
        files.append(self.path / "metrics.jsonl", text.encode())

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines written so far."""
        return _lines(self.path / "metrics.jsonl")

    def append_incident(self, incident: Incident) -> None:
        """Add a line to ``incidents.jsonl``, at once: a run may be killed."""
        files.append(self.path / "incidents.jsonl", json.dumps(incident.to_json()).encode() + b"\n")

    def incidents(self) -> list[Incident]:
        """Return what has happened so far."""
        return [Incident.from_json(line) for line in _lines(self.path / "incidents.jsonl")]

    def copy_rounds(self, earlier: Path, rounds: int) -> None:
        """Take over the lines of an interrupted run's completed rounds, and all its incidents."""
        before = RunFolder(earlier)
        kept = [m for m in before.metrics() if m["round"] <= rounds]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        files.write(self.path / "metrics.jsonl", text.encode())
        for incident in before.incidents():
            self.append_incident(incident)

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Write ``run.json`` of a run that succeeded and drop its checkpoints (they are unmarked).

        Those of the interrupted runs that it went on from go as well: nothing is left to resume.
        """
        self._write_outcome({"status": "completed", "error": None, **outcome})
        for folder in self._lineage():
            checkpoint.discard(folder)

    @contextmanager
    def recording_failure(self) -> Iterator[None]:
        """Write ``run.json`` if the block raises, then let the error go on."""
        try:
            yield
        except Exception as error:
            message = str(error) or type(error).__name__
            self._write_outcome({"status": "failed", "error": message})
            raise

    def outcome(self) -> dict[str, Any] | None:
        """Return ``run.json``, or None while the run has not ended."""
        path = self.path / "run.json"
        if not path.is_file():
            return None
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document

    def seconds(self) -> float:
        """Return the time since this object was made."""
        return time.monotonic() - self._started

    def _lineage(self) -> list[Path]:
        """This folder and those it went on from, by what their ``resolved.json`` say."""
        folders = [self.path]
        while True:
            try:
                document = json.loads((folders[-1] / "resolved.json").read_bytes())
                earlier = Path(document["config"]["resume-from"] or folders[-1])
            except (OSError, ValueError, KeyError, TypeError):
                return folders  # not ours to clear away
            if earlier in folders:
                return folders
            folders.append(earlier)

    def _write_outcome(self, outcome: Mapping[str, Any]) -> None:
        seconds = round(self.seconds(), 1)
        document = {
            **{"format": RUN_FORMAT, "wall_seconds": seconds, **self._identity},
            **{"incidents": grouped(self.incidents()), **outcome},
        }
        files.write_json(self.path / "run.json", document)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file that may have been cut off by a crash."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def new_name(scenario: str) -> str:
    """Return ``<scenario>-<utc>``, the name of a new run folder."""
    return f"{scenario}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}"


def new_run_id(scenario: str) -> str:
    """Return ``<scenario>-<utc>-<6 random hexadecimal digits>``, the id of a new run."""
    return f"{new_name(scenario)}-{secrets.token_hex(3)}"


def config_sha256(flat: FlatConfig) -> str:
    """Return a digest of all settings that decide what a run computes."""
    deciding = {key: value for key, value in flat.items() if key != "resume-from"}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
