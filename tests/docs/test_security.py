"""SECURITY.md names tests; each must be there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_a_promise_rests_on_exists():
    rows = [
        line
        for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(("| customer", "| judge", "| owner", "| participant"))
    ]
    assert len(rows) >= 12
    for row in rows:
        last = row.split("|")[-2]
        folder, found = ROOT, 0
        for name in re.findall(r"`((?:tests/|benchmarks/|docs/|test_)[\w./-]+)`", last):
            path = folder / name if name.startswith("test_") else ROOT / name
            assert path.exists(), name
            folder, found = path.parent if path.is_file() else path, found + name.endswith(".py")
        assert found or "tests/privacy/" in last, row
