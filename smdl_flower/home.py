"""The owner's home: master keys, registry and vault in one private directory."""

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy

from smdl_flower import files, home_file, keyfile
from smdl_flower.errors import HomeError
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.keys import CampaignKey, OwnerKey
from smdl_flower.home_file import Settings
from smdl_flower.registry import Registry
from smdl_flower.vault import BaseModel, Vault

DEFAULT_HOME = Path("~/.smdl")
KEY_FILE = "master.key"
HEAD_FILE = "registry.head"
DATABASE_FILE = "registry.db"
_UNFINISHED = "unfinished.key"  # what it is called until all else is there


@dataclass(frozen=True)
class OwnerHome:
    """An open home.

    Attributes:
        path: Of the directory.
        keys: The master keys, the newest last; their ``repr`` hides them.
        registry: Customers and copies.
        vault: Base models.
        tracing_only: Why nothing may be recorded in it, in words; empty if it may.

    Example:
        >>> import tempfile
        >>> home = OwnerHome.create(Path(tempfile.mkdtemp()) / "home")
        >>> home.registry.add_customers(["clinic-a"])
        >>> OwnerHome.open(home.path).registry.customers()
        ('clinic-a',)
    """

    path: Path
    keys: tuple[OwnerKey, ...]
    registry: Registry
    vault: Vault
    tracing_only: str = ""

    @classmethod
    def create(
        cls, path: Path, *, passphrase: str | None = None, registry_url: str | None = None
    ) -> "OwnerHome":
        """Create a home with a new master key and an empty registry.

        Args:
            path: Directory, created with mode 0700; may exist if it is empty.
            passphrase: Encrypts the master key.
            registry_url: SQLAlchemy URL; default is SQLite in the home.

        Raises:
            HomeError: There is something in ``path`` already.
            ConfigError: The registry cannot be created.
        """
        if path.exists() and not path.is_dir():
            raise HomeError(f"{path} is there already and no folder; nothing was changed")
        with files.locked(path):
            _make_way(path)
            path.chmod(files.PRIVATE_DIRECTORY)
            key = OwnerKey.generate()
            keyfile.save(path / _UNFINISHED, [key], passphrase)
            try:
                if registry_url is None:
                    files.write(path / DATABASE_FILE, b"")  # SQLite would make it readable by all
                registry = Registry.create(_url(path, registry_url), [key], path / HEAD_FILE)
                home_file.write(path, Settings(registry_url))
            except BaseException:
                _make_way(path)  # no key lies about that nobody has use for
                raise
            files.move(path / _UNFINISHED, path / KEY_FILE)  # from now on it is a home
        return cls(path, (key,), registry, Vault(path / "vault"))

    @classmethod
    def open(cls, path: Path, passphrase: str | None = None) -> "OwnerHome":
        """Open a home.

        Raises:
            HomeError: There is none, or the passphrase is missing or wrong.
            IntegrityError: Key or home file are damaged.
        """
        cls.require(path)
        keys = keyfile.load(path / KEY_FILE, passphrase)
        settings = home_file.read(path)
        url, why = _url(path, settings.registry_url), settings.tracing_only
        registry = Registry(url, keys, path / HEAD_FILE, closed=why)
        return cls(path, keys, registry, Vault(path / "vault"), why)

    @staticmethod
    def require(path: Path) -> None:
        """Raise :class:`HomeError` unless ``path`` holds a home."""
        if not (path / KEY_FILE).is_file():
            raise HomeError(f"{path} is no owner's home; create one with: smdl init --home {path}")

    def require_writable(self) -> None:
        """Raise :class:`HomeError` if nothing may be recorded in this home."""
        self.registry.require_open()

    @property
    def key(self) -> OwnerKey:
        """The master key of new base models."""
        return self.keys[-1]

    def key_of(self, model_id: str) -> OwnerKey:
        """Return the master key that a base model belongs to; for a new one :attr:`key`."""
        number = self.registry.key_of(model_id)
        return self.key if number is None else self.keys[number]

    def campaign(self, model: BaseModel) -> CampaignKey:
        """Return the campaign key of a base model's copies."""
        return model.key(self.key_of(model.model_id))

    def mark(self, model: BaseModel) -> Mark:
        """Return the mark that a base model's copies share.

        Raises:
            CapacityError: The model is too small for the code length at this strength.
        """
        return model.mark(self.key_of(model.model_id))

    def base_models(self) -> list[BaseModel]:
        """Return all base models, checked against the registry.

        Raises:
            IntegrityError: One is missing or was changed.
        """
        models = self.registry.models()
        return [self.vault.load(model_id, digest) for model_id, digest in models.items()]


def _make_way(path: Path) -> None:
    """Require an empty folder; what an interrupted attempt left in it is removed.

    Nothing is lost with that: its key became no ``master.key``, so nobody ever used it.
    """
    left = {entry.name for entry in path.iterdir() if not files.is_draft(entry)}
    if left and (_UNFINISHED not in left or KEY_FILE in left):
        raise HomeError(f"{path} is there already and not empty; nothing was changed")
    for name in left & {f"{DATABASE_FILE}-journal", DATABASE_FILE, HEAD_FILE, home_file.NAME}:
        (path / name).unlink()
    (path / _UNFINISHED).unlink(missing_ok=True)


def _url(path: Path, registry_url: str | None) -> str | sqlalchemy.URL:
    # Not as text: a "?" in the path would end it.
    database = str((path / DATABASE_FILE).resolve())
    return registry_url or sqlalchemy.URL.create("sqlite", database=database)
