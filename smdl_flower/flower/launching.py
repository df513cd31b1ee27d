"""Launch a scenario on one of the engines; the same two apps run on both."""

import importlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smdl_flower import config, files
from smdl_flower.config import Scalar
from smdl_flower.errors import FederationError, OutputExistsError, SmdlError
from smdl_flower.flower import inline, simulation
from smdl_flower.flower.owner import HOME_VARIABLE, PASSPHRASE_FILE_VARIABLE
from smdl_flower.flower.reticence import LOG_VARIABLE
from smdl_flower.flower.run_folder import COMMIT_VARIABLE, RUN_DIRECTORY_VARIABLE, RunFolder

FLOWER_LOG = "flower.log"
PARTICIPANT_LOG = "participants.log"
LEDGERS = "ledger"
LEDGER_VARIABLE = "SMDL_LEDGER_DIR"  # read by privacy.private_round, which needs opacus
Engine = Literal["flower", "inline"]


@dataclass(frozen=True)
class Launch:
    """A scenario ready to run.

    Attributes:
        app: Directory of the Flower app.
        scenario: The scenario file.
        flat: The whole run config, checked.
        folder: New run folder.
        home: The owner's home.
        passphrase_file: Of the home, if it is encrypted.
    """

    app: Path
    scenario: Path
    flat: dict[str, Scalar]
    folder: Path
    home: Path
    passphrase_file: Path | None

    def environment(self) -> dict[str, str]:
        """Return what the server app learns by environment: paths, never a secret itself."""
        variables = {
            RUN_DIRECTORY_VARIABLE: str(self.folder.resolve()),
            HOME_VARIABLE: str(self.home.expanduser().resolve()),
            COMMIT_VARIABLE: _git_commit(self.app),
            LOG_VARIABLE: str(self.folder.resolve() / PARTICIPANT_LOG),
            # Of simulated participants; whoever keeps ledgers elsewhere says so.
            LEDGER_VARIABLE: os.environ.get(LEDGER_VARIABLE)
            or str(self.folder.resolve() / LEDGERS),
        }
        if self.passphrase_file:
            variables[PASSPHRASE_FILE_VARIABLE] = str(self.passphrase_file.resolve())
        return variables


def prepare(plan: Launch) -> None:
    """Create the run folder.

    Raises:
        OutputExistsError: It is there already, and not empty.
    """
    if plan.folder.exists() and (not plan.folder.is_dir() or any(plan.folder.iterdir())):
        raise OutputExistsError(f"{plan.folder} is not empty; choose another --out")
    files.make_private_directory(plan.folder)
    files.write(plan.folder / "scenario.toml", plan.scenario.read_bytes())
    earlier = Path(str(plan.flat.get("resume-from") or plan.folder)) / LEDGERS
    if earlier.is_dir() and not (plan.folder / LEDGERS).exists():
        shutil.copytree(earlier, plan.folder / LEDGERS)  # what was spent stays spent


def launch(plan: Launch, engine: Engine) -> RunFolder:
    """Run a scenario to its end, in the folder that :func:`prepare` made.

    Raises:
        FederationError: The run failed; its folder says why.
    """
    participants = config.parse(plan.flat).data.participants
    folder = RunFolder(plan.folder)
    if engine == "inline":
        with (
            _apps_importable(plan.app),
            _environment(plan.environment()),
            _flower_log_in(plan.folder / FLOWER_LOG),
        ):
            server = importlib.import_module("server_app.app").app
            client = importlib.import_module("client_app.app").app
            try:
                inline.run(server, client, participants, plan.flat)
            except FederationError as error:
                raise FederationError(f"{error}{_participants_words(folder)}") from None
    else:
        try:
            log = plan.folder / FLOWER_LOG
            simulation.run(plan.app, participants, plan.flat, plan.environment(), log=log)
        except FederationError as error:
            raise _explained(folder, error) from None
    outcome = folder.outcome()
    if outcome is None or outcome["status"] != "completed":
        raise FederationError(f"the run left no result in {plan.folder}; see the log above")
    return folder


def _explained(folder: RunFolder, error: SmdlError) -> SmdlError:
    """The server app's own words, where it got as far as leaving any."""
    outcome = folder.outcome()
    if outcome and outcome["status"] == "failed":
        return FederationError(f"the run failed: {outcome['error']}{_participants_words(folder)}")
    return error


def _participants_words(folder: RunFolder) -> str:
    said = folder.path / PARTICIPANT_LOG
    return f"; participants say why in {said}" if said.exists() else ""


@contextmanager
def _apps_importable(app: Path) -> Iterator[None]:
    sys.path.insert(0, str(app))
    try:
        yield
    finally:
        sys.path.remove(str(app))


@contextmanager
def _flower_log_in(path: Path) -> Iterator[None]:
    """Flower writes to the terminal, over our progress bar; let it write to a file instead."""
    files.append(path, b"")
    logger = logging.getLogger("flwr")
    handlers, propagate = logger.handlers[:], logger.propagate
    logger.handlers, logger.propagate = [logging.FileHandler(path)], False
    try:
        yield
    finally:
        logger.handlers[0].close()
        logger.handlers, logger.propagate = handlers, propagate


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _git_commit(app: Path) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", "-C", str(app), "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
