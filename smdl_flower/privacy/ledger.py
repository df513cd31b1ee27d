"""The budget ledger: what a participant's data set has paid for, over all runs.

One append-only file per data set, at the participant. A charge is on disk before training begins,
so a crash or a lost reply is paid for; a retry is paid for again. Each line carries the digest of
the one before, and a second file says how long the ledger was: an altered or truncated ledger is
refused. That guards against accidents and against forgetting, not against the participant itself,
which is whom the ledger protects.
"""

import fcntl
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smdl_flower import files
from smdl_flower.errors import BudgetExhaustedError, PrivacyError
from smdl_flower.privacy.accounting import Steps, epsilon

FORMAT = "smdl-ledger/1"
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Account:
    """The state of a ledger.

    Attributes:
        cap: Largest epsilon that the data set may ever spend.
        delta: Of the guarantee.
        history: All that was paid for.
        head: Digest of the last line, hexadecimal; empty before the first.
    """

    cap: float
    delta: float
    history: tuple[Steps, ...]
    head: str

    def spent(self) -> float:
        """Return the epsilon of the whole history."""
        return epsilon(self.history, self.delta)


class Ledger:
    """A ledger file.

    Args:
        path: The file; its head file and its lock lie beside it.
        cap: Largest epsilon, if the ledger is new; an existing one keeps its own.
        delta: Must be that of an existing ledger.

    Example:
        >>> import tempfile
        >>> ledger = Ledger(Path(tempfile.mkdtemp()) / "images.jsonl", cap=1.0, delta=1e-5)
        >>> account = ledger.charge(Steps(30.0, 1.0, 10), run="a", server_round=1)
        >>> ledger.charge(Steps(30.0, 1.0, 500), run="a", server_round=2)
        Traceback (most recent call last):
        ...
        smdl_flower.errors.BudgetExhaustedError: budget exhausted: images has spent epsilon 0.397 \
and is asked for 3.422 in all; its cap is 1
        >>> len(ledger.read().history)
        1
    """

    def __init__(self, path: Path, *, cap: float, delta: float) -> None:
        self._path = path
        self._head_path = path.with_suffix(".head")
        self._cap = cap
        self._delta = delta

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self._path.stem

    def charge(self, steps: Steps, *, run: str, server_round: int) -> Account:
        """Pay for steps that are about to be made; after this returns they are paid for.

        Raises:
            BudgetExhaustedError: They would exceed the cap; nothing was charged.
            PrivacyError: The ledger is damaged, or of another delta.
        """
        with self._locked():
            account = self._read()
            if account.delta != self._delta:
                raise PrivacyError(
                    f"{self._path}: kept for delta {account.delta:g}, and the run asks for "
                    f"{self._delta:g}; epsilons of two deltas do not add up"
                )
            self._require_budget(account, steps)
            if not account.head:
                header = {"format": FORMAT, "cap": self._cap, "delta": self._delta}
                account = Account(self._cap, self._delta, (), self._append(header, ""))
            entry = {"run": run, "round": server_round, **vars(steps)}
            head = self._append(entry, account.head)
            return Account(account.cap, account.delta, (*account.history, steps), head)

    def read(self) -> Account:
        """Return the state of the ledger.

        Raises:
            PrivacyError: It is damaged.
        """
        with self._locked():
            return self._read()

    def _require_budget(self, account: Account, steps: Steps) -> None:
        total = epsilon((*account.history, steps), account.delta)
        if not total <= account.cap + _ROUNDING:
            raise BudgetExhaustedError(
                f"budget exhausted: {self._path.stem} has spent epsilon {account.spent():.3f} and "
                f"is asked for {total:.3f} in all; its cap is {account.cap:g}"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        files.make_private_directory(self._path.parent)
        lock = self._path.with_suffix(".lock")
        files.append(lock, b"")
        with lock.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # freed when the file is closed, also by a crash
            yield

    def _read(self) -> Account:
        content = self._path.read_bytes() if self._path.exists() else b""
        committed = self._committed()
        if len(content) < committed["bytes"] or not self._agrees(content, committed):
            raise self._damaged("shorter or other than its head file says")
        whole, _, torn = content.rpartition(b"\n")
        if torn:  # a crash while a line was written: its training never began
            if len(content) - len(torn) < committed["bytes"]:
                raise self._damaged("its last line is cut off")
            self._path.write_bytes(whole + b"\n" if whole else b"")
        return self._parse(whole.split(b"\n") if whole else [])

    def _committed(self) -> dict[str, Any]:
        if not self._head_path.exists():
            return {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
        try:
            head: dict[str, Any] = json.loads(self._head_path.read_bytes())
            if not isinstance(head["bytes"], int) or not isinstance(head["sha256"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._damaged("its head file is unreadable") from None
        return head

    def _agrees(self, content: bytes, committed: dict[str, Any]) -> bool:
        start = content[: committed["bytes"]]
        if content and not committed["bytes"] and content.count(b"\n") > 1:
            return False  # the head file of a ledger in use is missing
        return bool(hashlib.sha256(start).hexdigest() == committed["sha256"])

    def _parse(self, lines: list[bytes]) -> Account:
        if not lines:
            return Account(self._cap, self._delta, (), "")
        previous, history = "", []
        try:
            header = json.loads(lines[0])
            if header["format"] != FORMAT:
                raise ValueError(header["format"])
            for number, line in enumerate(lines):
                entry = json.loads(line)
                if entry["previous"] != previous:
                    raise ValueError(number)
                previous = hashlib.sha256(line).hexdigest()
                if number:
                    history.append(_steps(entry))
            return Account(
                _positive(header["cap"]), _positive(header["delta"]), tuple(history), previous
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._damaged("its lines do not follow from each other") from None

    def _append(self, entry: dict[str, Any], previous: str) -> str:
        """Write a line, then the head; only then may training begin."""
        line = json.dumps({**entry, "previous": previous}, allow_nan=False).encode()
        files.append(self._path, line + b"\n")
        content = self._path.read_bytes()
        head = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        files.write_json(self._head_path, head)
        return hashlib.sha256(line).hexdigest()

    def _damaged(self, why: str) -> PrivacyError:
        return PrivacyError(
            f"{self._path}: {why}; what this data set has spent is unknown, so nothing is trained "
            "on it; restore the ledger from a backup that is up to date"
        )


def _steps(entry: dict[str, Any]) -> Steps:
    count, rate = entry["count"], _positive(entry["sample_rate"])
    if not isinstance(count, int) or count < 1 or rate > 1:
        raise ValueError(entry)
    return Steps(_positive(entry["sigma"]), rate, count)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(value)
    return float(value)
