"""The owner's side of a run: where the home is, who marks and issues, what each round leaves."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from flwr.serverapp.strategy import Strategy

from smdl_flower import own_images
from smdl_flower.config import RunConfig
from smdl_flower.data import Images, load_test
from smdl_flower.errors import ConfigError
from smdl_flower.flower import checkpoint
from smdl_flower.flower.averaging import Averaging
from smdl_flower.flower.issuers import OfflineIssuer, ServerIssuer
from smdl_flower.flower.marking import Marker, OwnerMarker, Unmarked
from smdl_flower.flower.run_folder import RunFolder
from smdl_flower.flower.strategy import Issuer
from smdl_flower.home import DEFAULT_HOME, OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

log = logging.getLogger(__name__)

HOME_VARIABLE = "SMDL_HOME"
DATA_VARIABLE = "SMDL_DATA_DIR"
PASSPHRASE_FILE_VARIABLE = "SMDL_PASSPHRASE_FILE"  # noqa: S105 - the name of a path, no secret


class RoundRecorder:
    """Writes each round's metrics line and checkpoint."""

    def __init__(
        self,
        folder: RunFolder,
        inner: Strategy,
        averaging: Averaging,
        settings: str,
        run_id: str,
    ) -> None:
        self._folder = folder
        self._inner = inner
        self._averaging = averaging
        self._settings = settings
        self._run_id = run_id

    def round_done(self, server_round: int, model: Weights, metrics: dict[str, float]) -> None:
        """Record a completed round."""
        self._folder.append_metrics({"round": server_round, **metrics})
        state = checkpoint.optimizer_state(self._inner)
        done = checkpoint.Checkpoint(
            server_round, model, state, self._averaging.state, self._run_id
        )
        checkpoint.save(self._folder.path, done, self._settings)
        # Go on from what a resumed run would read (float32), so that both end with the same model.
        checkpoint.restore_optimizer_state(self._inner, state)


def test_images(run: RunConfig) -> Images:
    """Return the owner's test images; their classes and format are the federation's.

    They are the test images of the run config's source. Where participants bring folders of their
    own (``imagefolder`` without ``data-dir``) they are all images in ``$SMDL_DATA_DIR``.

    Raises:
        ConfigError: Nobody said where they are.
        DataError: They are missing or unusable.
    """
    if run.data.source != "imagefolder" or run.data.directory:
        return load_test(run.data)
    place = os.environ.get(DATA_VARIABLE)
    if not place:
        raise ConfigError(
            f"no test images: set {DATA_VARIABLE} on the server to a folder with one sub-folder "
            "per class, or data-dir in a simulation"
        )
    return own_images.load_public(Path(place).expanduser(), run.data.image_size)


def open_home(run: RunConfig) -> OwnerHome | None:
    """Return the owner's home; None if the run config keeps it off this host.

    Raises:
        HomeError: It is missing or locked.
    """
    if run.fingerprint.where == "offline":
        return None
    return OwnerHome.open(home_path(), read_passphrase_file(passphrase_path()))


def issuer(
    home: OwnerHome | None, run: RunConfig, spec: ModelSpec, images: Images, folder: RunFolder
) -> Issuer:
    """Return the issuer that the run config asks for.

    Raises:
        CapacityError: The model is too small for the code length.
    """
    if home is None:
        return OfflineIssuer(run, spec, folder)
    gate = FidelityGate(images, run.fingerprint.max_accuracy_drop)
    return ServerIssuer(home, run, spec, gate, folder)


def marker(
    home: OwnerHome | None, run: RunConfig, spec: ModelSpec, run_id: str, public: Sequence[str]
) -> Marker:
    """Return who marks what is sent in training; PUBLIC tensors bear no mark."""
    if home is None or not run.marking.enabled:
        log.warning("models are sent unmarked: a participant that leaks one cannot be named")
        return Unmarked()
    return OwnerMarker(home, spec, run_id, run.marking.strength, public)


def home_path() -> Path:
    """Return the owner's home: ``$SMDL_HOME``, or ``~/.smdl``."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()


def read_passphrase_file(path: Path | None) -> str | None:
    """Return the first line of a passphrase file; None without one.

    Raises:
        ConfigError: The file cannot be read or is empty.
    """
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"passphrase file {path}: cannot be read as text") from None
    if not lines or not lines[0]:
        raise ConfigError(f"passphrase file {path}: its first line is empty")
    return lines[0]


def passphrase_path() -> Path | None:
    """Return the passphrase file that the environment names (``$SMDL_PASSPHRASE_FILE``), if any."""
    name = os.environ.get(PASSPHRASE_FILE_VARIABLE)
    return Path(name) if name else None
