"""Which code runs: a digest that server and participants compare.

In a simulation Flower pickles the ClientApp by reference, and its workers import it from wherever
they were started: another checkout, days old, can answer. A digest in every reply tells.
"""

import functools
import hashlib
import importlib.util
from pathlib import Path


@functools.cache
def code_sha256() -> str:
    """Return the SHA-256 of the source files of this package and both apps, names included.

    Example:
        >>> len(code_sha256())
        64
    """
    total = hashlib.sha256()
    for name in ("client_app", "server_app", "smdl_flower"):
        spec = importlib.util.find_spec(
            name
        )  # where an import would find it; the apps may be absent
        for package in map(Path, (spec and spec.submodule_search_locations) or ()):
            for path in sorted(package.rglob("*.py")):
                content = path.read_bytes()
                where = path.relative_to(package).as_posix()
                total.update(f"{name}/{where} {len(content)}\n".encode())
                total.update(content)
    return total.hexdigest()
