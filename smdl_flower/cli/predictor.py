"""What ``smdl verify --predictor`` names: a function of the user's, or an address."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from smdl_flower.blackbox import asking
from smdl_flower.blackbox.asking import Predictor
from smdl_flower.blackbox.queries import Pixels
from smdl_flower.errors import ConfigError
from smdl_flower.interface import client, documents, headers, kserve
from smdl_flower.interface.client import Endpoint, Manners
from smdl_flower.interface.kserve import Kserve
from smdl_flower.interface.pixels import Scale
from smdl_flower.interface.plain import Plain
from smdl_flower.interface.protocols import Language
from smdl_flower.interface.torchserve import Torchserve


class ProtocolName(StrEnum):
    """Protocols that an address may speak."""

    SMDL = "smdl"
    KSERVE = "kserve"
    TORCHSERVE = "torchserve"


@dataclass(frozen=True)
class Approach:
    """How an address is asked; None is what was not said.

    Attributes:
        protocol: What it speaks.
        pixels: Scale of the numbers of a tensor.
        input_name: Of a tensor.
        output_name: Of the tensor with the answers.
        class_names: File of the names that it tells instead of numbers.
        header_file: File of headers that let us in.
        rate: Most requests in a second.
        retries: How often to try again.
    """

    protocol: ProtocolName | None = None
    pixels: Scale | None = None
    input_name: str | None = None
    output_name: str | None = None
    class_names: Path | None = None
    header_file: Path | None = None
    rate: float | None = None
    retries: int | None = None

    def language(self) -> Language:
        """Return the protocol.

        Raises:
            ConfigError: Something was said that only another protocol knows.
        """
        names = documents.read_names(self.class_names) if self.class_names else None
        if self.protocol is ProtocolName.KSERVE:
            named = (self.input_name or kserve.INPUT, self.output_name)
            return Kserve(self.pixels or Scale.SIGNED, *named, names)
        if self.pixels or self.input_name or self.output_name:
            raise ConfigError("--pixels, --input-name and --output-name need --protocol kserve")
        return Torchserve(names) if self.protocol is ProtocolName.TORCHSERVE else Plain(names)

    def words(self) -> str:
        """Return all that may change what the answers are taken for."""
        protocol = self.protocol or ProtocolName.SMDL
        names = self.class_names.read_bytes() if self.class_names else b""
        said = [protocol, self.pixels, self.input_name, self.output_name]
        return json.dumps([*said, hashlib.sha256(names).hexdigest() if names else None])

    def manners(self, timeout: float) -> Manners:
        """Return how often and how long it is asked."""
        usual = Manners()
        return Manners(
            rate=usual.rate if self.rate is None else self.rate,
            retries=usual.retries if self.retries is None else self.retries,
            timeout=timeout,
        )


@dataclass(frozen=True)
class Chosen:
    """A predictor and how it is asked.

    Attributes:
        ask: The predictor.
        timeout: Seconds for a batch.
        batch: Images at a time.
        approach: How it is asked, in words; None of a function. What a function says is not kept:
            it may be another one tomorrow, under the same name.
    """

    ask: Predictor
    timeout: float
    batch: int
    approach: str | None


def choose(name: str, approach: Approach, timeout: float, batch: int | None) -> Chosen:
    """Return what was named.

    Args:
        name: ``module:function`` or an address.
        approach: For an address only.
        timeout: Seconds for a batch, or for one request.
        batch: Images at a time; None is what suits the kind.

    Raises:
        ConfigError: It is neither, or an option does not suit it.
    """
    if not client.is_address(name):
        if approach != Approach():
            raise ConfigError(
                f"--predictor {name[:80]!r} is no address: --protocol and all that goes with it "
                "need http:// or https://"
            )
        return Chosen(asking.load(name), timeout, batch or asking.BATCH, None)
    secrets = headers.read(approach.header_file) if approach.header_file else None
    endpoint = Endpoint(name, approach.language(), approach.manners(timeout), secrets)
    return Chosen(endpoint, endpoint.patience, batch or 1, approach.words())


def counted(ask: Predictor, tell: Callable[[str], None]) -> Predictor:
    """Return a predictor that says how far asking is; whoever waits for minutes wants to know."""
    images_asked = 0

    def asking_on(images: Pixels) -> object:
        nonlocal images_asked
        said = ask(images)
        images_asked += len(images)
        tell(f"Asking: {images_asked} answers ...")
        return said

    return asking_on
