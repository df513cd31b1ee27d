"""The command line as a user runs it, in this process where nothing else is needed."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from smdl_flower.cli.main import run

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "scenarios" / "digits-smoke.toml"


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        return json.loads(self.out)


@pytest.fixture
def smdl(capsys):
    """Return a function that runs ``smdl`` with arguments."""

    def call(*arguments) -> Outcome:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@dataclass(frozen=True)
class Journey:
    """A finished run: the owner's home and the run folder."""

    home: Path
    run: Path

    def copy(self, number: int) -> Path:
        return self.run / "copies" / f"customer-{number:02d}.safetensors"


@pytest.fixture(scope="session")
def journey(tmp_path_factory) -> Journey:
    """The smallest scenario, run once on the inline engine."""
    place = tmp_path_factory.mktemp("journey")
    assert run(["init", "--home", str(place / "home"), "--json"]) == 0
    arguments = ["simulate", SMOKE, "--engine", "inline", "--json"]
    arguments += ["--home", place / "home", "--out", place / "run"]
    assert run([str(a) for a in arguments]) == 0
    return Journey(place / "home", place / "run")
