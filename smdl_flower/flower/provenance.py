"""Which code runs: a digest that server and participants compare.

In a simulation Flower pickles the ClientApp by reference, and its workers import it from wherever
they were started: another checkout, days old, can answer. A digest in every reply tells.
"""

import functools
import hashlib
from pathlib import Path

import smdl_flower


@functools.cache
def code_sha256() -> str:
    """Return the SHA-256 of the imported package's source files, names included.

    Example:
        >>> len(code_sha256())
        64
    """
    package = Path(smdl_flower.__file__).parent
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()
