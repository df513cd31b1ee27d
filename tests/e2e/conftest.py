"""The command line as a user runs it, in this process where nothing else is needed."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smdl_flower.cli.main import run
from smdl_flower.fingerprint.keys import OwnerKey
from tests.e2e.needles import Session

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "scenarios" / "digits-smoke.toml"
PASSPHRASES = ("correct horse", "battery staple")  # of homes that tests make


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        return json.loads(self.out)


class RecordingFactory:
    """Pytest's factory of temporary folders, which tells a session of each."""

    def __init__(self, factory: pytest.TempPathFactory, session: Session) -> None:
        self._factory = factory
        self._session = session

    def mktemp(self, *arguments: Any, **named: Any) -> Path:
        folder = self._factory.mktemp(*arguments, **named)
        self._session.folders.append(folder)
        return folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._factory, name)


@pytest.fixture(scope="session")
def everything() -> Iterator[Session]:
    """All that the end-to-end tests leave; searched for the owners' secrets when they are over."""
    session = Session(passphrases=set(PASSPHRASES))
    real = OwnerKey.generate

    def generate() -> OwnerKey:
        session.keys.append(real())
        return session.keys[-1]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            _, words, _, environment = arguments
            session.shown += [str(word) for word in (words, *(environment or {}).items())]

    sys.addaudithook(audit)
    with pytest.MonkeyPatch.context() as patch, session.watching():
        patch.setattr(OwnerKey, "generate", generate)
        yield session
    begun = time.monotonic()
    found, count = session.search()
    count["milliseconds"] = round(1000 * (time.monotonic() - begun))
    for folder in session.folders[:1]:
        (folder.parent / "searched.json").write_text(json.dumps(count))
    assert found == {}, "secrets in what end-to-end tests left"


@pytest.fixture(scope="session")
def tmp_path_factory(tmp_path_factory, everything):
    return RecordingFactory(tmp_path_factory, everything)


@pytest.fixture
def smdl(capsys, everything):
    """Return a function that runs ``smdl`` with arguments."""

    def call(*arguments) -> Outcome:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        everything.shown += [captured.out, captured.err]
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
