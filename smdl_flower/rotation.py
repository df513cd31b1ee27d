"""A new master key for the base models to come; those there are keep theirs, and stay traceable.

In this order, so that a crash leaves nothing that cannot be used: the new key joins the others in
``master.key``; a statement that the old key signs commits to it; the registry goes on under it.
Whatever was left undone is done by the next call.
"""

from dataclasses import dataclass
from pathlib import Path

from smdl_flower import commitments, files, keyfile
from smdl_flower.commitments import Commitment
from smdl_flower.errors import ConfigError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.home import KEY_FILE, OwnerHome


@dataclass(frozen=True)
class Rotation:
    """A rotation that is done.

    Attributes:
        home: Opened anew, with the new key.
        statement: That names the new key; its digest is to be published.
    """

    home: OwnerHome
    statement: Commitment


def rotate(path: Path, passphrase: str | None) -> Rotation:
    """Give a home a new master key, or finish what an interruption left of that.

    Processes that opened the home before go on until they next look into the registry, and are
    then told to start again: rotate while nothing runs.

    Args:
        path: Of the home.
        passphrase: That opens it; the new key is kept under the same.

    Raises:
        HomeError: There is no home, it may only trace, or the passphrase is missing or wrong.
        IntegrityError: Registry or commitments are not as they were written; nothing was changed.
        ConfigError: The home has too many keys.

    Example:
        >>> import tempfile
        >>> old = OwnerHome.create(Path(tempfile.mkdtemp()) / "home")
        >>> new = rotate(old.path, passphrase=None).home
        >>> new.keys[0] == old.key, new.key == old.key, new.registry.rotations()
        (True, False, 1)
    """
    OwnerHome.require(path)
    with files.locked(path):
        home = OwnerHome.open(path, passphrase)
        home.require_writable()
        if is_finished(home):
            keys = (*home.keys, OwnerKey.generate())
            keyfile.replace(path / KEY_FILE, keys, passphrase)
            home = OwnerHome.open(path, passphrase)
        statement = commitments.publish_rotation(home)[-1]
        while home.registry.rotations() < len(home.keys) - 1:
            home.registry.record_rotation()
    return Rotation(home, statement)


def is_finished(home: OwnerHome) -> bool:
    """Whether no rotation was interrupted; reads and checks registry and commitments."""
    introduced = len(commitments.keys_of(commitments.of_home(home))) or 1
    return introduced == len(home.keys) == home.registry.rotations() + 1


def change_passphrase(path: Path, old: str | None, new: str | None) -> None:
    """Keep a home's keys under another passphrase.

    Copies of the old file (backups) still open with the old passphrase: whoever knows that may have
    the keys. Then rotate as well.

    Args:
        path: Of the home.
        old: What opens it now; None if nothing does.
        new: What shall open it; None leaves the keys unencrypted.

    Raises:
        HomeError: There is no home, or the old passphrase is missing or wrong.
        ConfigError: The new passphrase is empty.
    """
    OwnerHome.require(path)
    if new == "":
        raise ConfigError("the new passphrase is empty; to do without one, say --remove")
    with files.locked(path):
        keyfile.replace(path / KEY_FILE, keyfile.load(path / KEY_FILE, old), new)
