"""Headers that let us in: read from a private file, so that no secret is on a command line.

Command lines are seen by all users of a machine, and kept in histories. The file holds ``Name:
value`` lines, as ``curl --header @FILE`` takes them.
"""

import re
import stat
from pathlib import Path

from smdl_flower.errors import ConfigError, MissingFileError

_BYTES = 64 << 10
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
# Ours to say: they describe the message, not who sends it.
_RESERVED = {
    *("accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
    *("host", "te", "trailer", "transfer-encoding", "upgrade"),
}


def read(path: Path) -> dict[str, str]:
    """Return the headers in a file; no error quotes a value.

    Raises:
        MissingFileError: There is no such file.
        ConfigError: Others may read it, or a line is no header that may be set.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "headers"
        >>> path.touch(mode=0o600)
        >>> path.write_text("Authorization: Bearer 1234")
        26
        >>> list(read(path))
        ['Authorization']
    """
    try:
        status = path.stat()
    except OSError:
        raise MissingFileError(f"{path}: there is no such file") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > _BYTES:
        raise ConfigError(f"{path}: no file of at most {_BYTES:,} bytes")
    if status.st_mode & 0o077:
        raise ConfigError(f"{path}: others may read it; say chmod 600 {path}")
    headers: dict[str, str] = {}
    lines = path.read_bytes().decode("latin-1").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, value = line.partition(":")
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value.strip())):
            raise ConfigError(f"{path}: line {number} is no header; expected Name: value, in ASCII")
        if name.lower() in _RESERVED or name.lower() in map(str.lower, headers):
            raise ConfigError(f"{path}: line {number}: {name} cannot be set, or is there twice")
        headers[name] = value.strip()
    return headers
