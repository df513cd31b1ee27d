"""Are an owner's secrets anywhere in what the end-to-end tests left?

Secrets are looked for as raw bytes, hexadecimal, base64 at each of its three offsets, and as JSON
numbers; base models as windows of 16 bytes of the tensors that bear marks. Everything is read: run
folders, evidence, logs of servers and engines, databases, what commands print, their arguments and
environments. Left out are homes themselves and the few places that hold a secret on purpose.
"""

import base64
import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sqlalchemy

from smdl_flower.errors import SmdlError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.home import KEY_FILE, OwnerHome
from smdl_flower.vault import BaseModel

PROBE = 8  # bytes that are compared at every offset at once
WINDOW = 16  # bytes of a tensor
WINDOWS = 40  # of each tensor
BASE, PASSPHRASE = "base model", "passphrase"
# Models that a test writes, takes from a run to go on from, or discloses to a judge.
MODEL_FILES = (".safetensors", ".pt", ".pth", ".pt2", ".onnx", ".bin", ".sealed")


def forms_of(secret: bytes) -> Iterator[bytes]:
    """Yield the beginnings of all texts and bytes by which a secret may be written down."""
    yield secret[:WINDOW]
    for text in (secret.hex(), secret.hex().upper()):
        yield text[: 2 * WINDOW].encode()
    for offset in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(secret[offset : offset + 15])  # without the ends, which neighbours change
    for separator in (",", ", "):
        yield separator.join(map(str, secret[:WINDOW])).encode()


@dataclass
class Haystack:
    """Secrets to look for, and who may know them where.

    Attributes:
        needles: Bytes to look for -> which secret that is.
    """

    needles: dict[bytes, str] = field(default_factory=dict)

    def add(self, name: str, secret: bytes) -> None:
        """Look for a secret of at least 16 bytes in all its forms."""
        self.needles |= dict.fromkeys(forms_of(secret), name)

    def add_text(self, name: str, text: str) -> None:
        """Look for a text of at least 8 bytes."""
        self.needles[text.encode()] = name

    def add_key(self, key: OwnerKey) -> None:
        """Look for a master key and what is derived from it alone."""
        self.add("master key", key.secret)
        self.add("signing key", key.signing_key().secret)
        self.add("sealing key", key.sealing_key().secret)
        self.add("bundle key", key.bundle_key().secret)

    def add_home(self, home: OwnerHome) -> None:
        """Look for all secrets of a home."""
        for key in home.keys:
            self.add_key(key)
        address = json.loads((home.path / "home.json").read_bytes())["registry_url"]
        password = sqlalchemy.make_url(address).password if address else None
        if password:
            self.add_text("password of the registry", str(password))
        for model in home.base_models():
            campaign = home.campaign(model)
            self.add("campaign key", campaign.secret)
            for customer in home.registry.customers():
                self.add(f"key of {customer}", campaign.customer(customer).secret)
            self.add_model(model)

    def add_model(self, model: BaseModel) -> None:
        """Look for a base model."""
        for array in model.weights.values():
            if array.ndim < 2:
                continue  # copies keep it
            content, count = array.tobytes(), array.size - WINDOW // 4
            for at in np.linspace(0, max(count, 0), WINDOWS, dtype=int).tolist():
                window = content[4 * at : 4 * at + WINDOW]
                values = np.frombuffer(window, np.float32)
                if len(set(values.tolist()) - {0.0}) == WINDOW // 4:
                    self.needles |= dict.fromkeys(
                        (
                            window,
                            window.hex().encode(),
                            json.dumps(values.tolist()[:3])[1:-1].encode(),
                        ),
                        BASE,
                    )

    def found(self, content: bytes) -> set[str]:
        """Return which secrets are in some bytes."""
        if len(content) < PROBE or not self.needles:
            return set()
        known = np.unique(np.frombuffer(b"".join(n[:PROBE] for n in self.needles), "<u8"))
        hits = set[str]()
        for shift in range(PROBE):  # all offsets, eight bytes at a time
            whole = (len(content) - shift) // PROBE
            words = np.frombuffer(content, "<u8", whole, shift)
            for index in np.flatnonzero(np.isin(words, known)).tolist():
                hits |= self._at(content, shift + PROBE * index)
        return hits

    def _at(self, content: bytes, offset: int) -> set[str]:
        here = content[offset : offset + 200]
        return {name for needle, name in self.needles.items() if here.startswith(needle)}


def homes_in(folders: Iterable[Path]) -> list[Path]:
    """Return all owners' homes below some folders."""
    return sorted({key.parent for folder in folders for key in folder.rglob(KEY_FILE)})


def opened(path: Path, passphrases: Iterable[str]) -> OwnerHome | None:
    """Open a home by any of the passphrases; None if a test broke it."""
    for passphrase in (None, *passphrases):
        try:
            home = OwnerHome.open(path, passphrase)
            home.base_models()
        except SmdlError:
            continue
        return home
    return None


def outside(folders: Iterable[Path], homes: Iterable[Path]) -> Iterator[Path]:
    """Yield all files below some folders that are in no home."""
    within = set(homes)
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and within.isdisjoint(path.parents):
                yield path


def may_hold(path: Path) -> set[str]:
    """Return which secrets a file holds on purpose."""
    allowed = {BASE} if path.suffix in MODEL_FILES and path.parent.name != "copies" else set()
    if path.stat().st_size < 64 and len(path.read_bytes().split(b"\n")) <= 2:
        allowed.add(PASSPHRASE)  # a passphrase file: nothing but that
    if path.parent.parent.name == "disclosure":  # for a judge
        terms = path.parent / "terms.json"
        opened = json.loads(terms.read_bytes()).get("customers", ()) if terms.exists() else ()
        allowed |= {f"key of {entry['customer']}" for entry in opened}
    return allowed


def of_descendants() -> Iterator[str]:
    """Yield arguments and environment of each process below this one."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            stat = (entry / "stat").read_text(errors="replace")
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    below, found = {os.getpid()}, set[int]()
    while below:
        below = {pid for pid, parent in parents.items() if parent in below}
        found |= below
    for pid in found:
        with contextlib.suppress(OSError):
            for name in ("cmdline", "environ"):
                yield Path(f"/proc/{pid}/{name}").read_text(errors="replace")


@dataclass
class Session:
    """What end-to-end tests made and showed, to be searched when they are over.

    Attributes:
        folders: Where their files are.
        shown: What commands printed; arguments and environments of processes.
        passphrases: That open their homes.
        keys: Master keys that were made in this process.
    """

    folders: list[Path] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    passphrases: set[str] = field(default_factory=set)
    keys: list[OwnerKey] = field(default_factory=list)

    @contextlib.contextmanager
    def watching(self, every: float = 1.0) -> Iterator[None]:
        """Note arguments and environments of all processes that descend from this one."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(every):
                self.shown += sorted(set(of_descendants()) - set(self.shown))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def search(self) -> tuple[dict[str, set[str]], dict[str, int]]:
        """Return where which secrets were found, and how much was searched."""
        homes = homes_in(self.folders)
        hay = Haystack()
        for key in self.keys:
            hay.add_key(key)
        for text in self.passphrases:
            hay.add_text(PASSPHRASE, text)
        for home in (opened(path, self.passphrases) for path in homes):
            if home:
                hay.add_home(home)
        found = {"shown, or told to a process": hay.found("\0".join(self.shown).encode())}
        count = {"homes": len(homes), "needles": len(hay.needles), "files": 0, "bytes": 0}
        for path in outside(self.folders, homes):
            content = path.read_bytes()
            count["files"] += 1
            count["bytes"] += len(content)
            found[str(path)] = hay.found(content) - may_hold(path)
        return {where: what for where, what in found.items() if what}, count
