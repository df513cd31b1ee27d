"""docs/formats.md against the sources: no format may appear in one and not in the other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
IDENTIFIER = re.compile(r"smdl-[a-z-]+/\d")
PACKAGES = ("smdl_flower", "server_app", "client_app")


def test_every_format_in_the_sources_is_documented_and_no_other():
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    used = {name for path in sources for name in IDENTIFIER.findall(path.read_text("utf-8"))}
    documented = set(IDENTIFIER.findall((ROOT / "docs" / "formats.md").read_text("utf-8")))
    assert used
    assert documented == used


def test_every_format_has_a_row_in_the_overview_and_a_heading_or_table():
    text = (ROOT / "docs" / "formats.md").read_text("utf-8")
    for name in set(IDENTIFIER.findall(text)):
        assert f"| `{name}` |" in text, name
        assert re.search(rf"^##.*\b{name}", text, re.MULTILINE), name
