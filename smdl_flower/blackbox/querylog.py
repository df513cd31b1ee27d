"""What a suspect said so far: no answer is lost, and none is asked for twice.

Answers are on disk before the next question is put, so an examination that was interrupted goes on
where it stopped. That also settles what a suspect with two answers to one question said: the first.
Each line is chained to the one before by a MAC under the owner's key; lines that are missing at the
end are only asked for again. A log holds digests and numbers of images, never an image.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smdl_flower import clock, files
from smdl_flower.errors import ConfigError, IntegrityError, OutputExistsError
from smdl_flower.fingerprint.keys import OwnerKey

FORMAT = "smdl-query-log/1"

Row = int | NDArray[np.float64]
"""What was said to one image: a label, or a score for each class."""


@dataclass(frozen=True)
class Subject:
    """Whose answers to what a log holds; a log of another subject is refused.

    Attributes:
        model_id: Of the base model.
        pool: Number of the pool.
        images_sha256: Of its images.
        classes: Of the base model.
        suspect: Name or address.
        approach: How it is asked, in words.
    """

    model_id: str
    pool: int
    images_sha256: str
    classes: int
    suspect: str
    approach: str

    def file_name(self) -> str:
        """Return a name for the log, which tells nobody who is suspected."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.model_id}-{self.pool}-{digest[:16]}.jsonl"


class QueryLog:
    """An open log; see :func:`opened`.

    Attributes:
        path: The file.
        rows: What was said, by number of the image.
        kept: How many of them were there before it was opened.
        begun: When the first question was put, UTC, ISO 8601.
    """

    def __init__(self, path: Path, key: OwnerKey, subject: Subject) -> None:
        self.path = path
        self.rows: dict[int, Row] = {}
        self.begun = ""
        self._key = key
        self._mac = bytes(32)
        for entry in self._entries():
            self._take(entry, subject)
        self.kept = len(self.rows)

    def append(self, rows: Mapping[int, Row]) -> None:
        """Keep what was said; when this returns it is on disk."""
        said = [[n, row if isinstance(row, int) else row.tolist()] for n, row in rows.items()]
        line, self._mac = _line(self._key, self._mac, {"at": clock.now(), "answers": said})
        files.append(self.path, line)
        self.rows.update(rows)

    def _entries(self) -> Iterator[dict[str, Any]]:
        content = self.path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:  # a crash while it was written: that answer is asked for again
            os.truncate(self.path, len(content) - len(torn))
        for number, line in enumerate(whole.split(b"\n"), start=1):
            try:
                document = json.loads(line)
                entry, said = document["entry"], document["mac"]
                _, mac = _line(self._key, self._mac, entry)
            except (ValueError, KeyError, TypeError, RecursionError):
                raise self._damaged(number) from None
            if said != mac.hex():
                raise self._damaged(number)
            self._mac = mac
            yield entry

    def _take(self, entry: dict[str, Any], subject: Subject) -> None:
        if self.begun:
            for number, said in entry["answers"]:
                self.rows[number] = said if isinstance(said, int) else np.array(said, np.float64)
            return
        if entry["format"] != FORMAT or entry["of"] != asdict(subject):
            raise ConfigError(
                f"{self.path}: a log of another suspect, pool or model; move it away to ask anew"
            )
        self.begun = entry["at"]

    def _damaged(self, line: int) -> IntegrityError:
        return IntegrityError(
            f"{self.path}: line {line} was changed, or is of another owner; restore it, or move it "
            "away to ask anew"
        )


@contextmanager
def opened(folder: Path, key: OwnerKey, subject: Subject) -> Iterator[QueryLog]:
    """Open a subject's log in a folder, for this process alone; it is created if missing.

    Raises:
        ConfigError: It is in use, or is another subject's.
        IntegrityError: It is not as it was written.

    Example:
        >>> import tempfile
        >>> at = Path(tempfile.mkdtemp()), OwnerKey(bytes(32)), Subject("m", 1, "", 10, "url", "")
        >>> with opened(*at) as log:
        ...     log.append({7: 3})
        >>> with opened(*at) as log:
        ...     log.rows
        {7: 3}
    """
    path = folder / subject.file_name()
    header = {"format": FORMAT, "of": asdict(subject), "at": clock.now()}
    if not path.exists():
        with contextlib.suppress(OutputExistsError):  # another process was here first
            files.write(path, _line(key, bytes(32), header)[0], replace=False)
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by a crash, too
        except BlockingIOError:
            raise ConfigError(f"{path}: another process is asking these questions") from None
        yield QueryLog(path, key, subject)


def _line(key: OwnerKey, previous: bytes, entry: dict[str, Any]) -> tuple[bytes, bytes]:
    """An entry as a line of the file, and its MAC."""
    text = json.dumps(entry, sort_keys=True)
    mac = key.authenticate("query-log", previous + text.encode())
    return f'{{"entry": {text}, "mac": "{mac.hex()}"}}\n'.encode(), mac
