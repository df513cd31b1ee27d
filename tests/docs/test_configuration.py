"""docs/configuration.md against the code: the same keys, and the defaults of pyproject.toml."""

import re
import tomllib
from pathlib import Path

from smdl_flower import config
from smdl_flower.data import SOURCES
from smdl_flower.flower import strategies

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| `(?P<key>[a-z0-9.-]+)` \| `(?P<default>[^`]*)` \| (?P<allowed>.+?) \| .+ \|$"
)


def rows() -> dict[str, re.Match[str]]:
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    found = [match for line in text.splitlines() if (match := ROW.match(line))]
    assert len({match["key"] for match in found}) == len(found), "a key has two rows"
    return {match["key"]: match for match in found}


def test_the_table_has_every_key_and_no_other():
    assert sorted(rows()) == list(config.known_keys())


def test_the_table_has_the_defaults_of_pyproject():
    documented = {
        key: tomllib.loads(f"value = {match['default']}")["value"] for key, match in rows().items()
    }
    assert documented == config.load_defaults(ROOT)


def test_the_table_names_every_data_source_and_strategy():
    assert re.findall(r"`([^`]+)`", rows()["data"]["allowed"]) == list(SOURCES)
    named = re.findall(r"`([^`]+)`", rows()["strategy"]["allowed"])
    assert named == list(strategies._FACTORIES)


def test_the_documented_defaults_are_a_valid_run_config():
    config.parse(config.load_defaults(ROOT))
