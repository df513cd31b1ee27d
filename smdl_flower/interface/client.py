"""An HTTP endpoint as a predictor: ask politely, and believe nothing that comes back.

Politely: not more often than a rate, again after a while if the server is busy, with no sign of who
asks. What comes back is cut off at a size while it arrives and never unpacked; no redirect is
followed, since it would carry questions and credentials elsewhere.
"""

import email.utils
import ipaddress
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from smdl_flower.errors import ConfigError, SuspectAnswersError
from smdl_flower.interface import documents
from smdl_flower.interface.pixels import Pixels
from smdl_flower.interface.protocols import JSON, Body, Language, Said

LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server says
MOST_BYTES = 4 << 20  # of an answer: 64 images of 1,000 classes take 1.3 MB

_BUSY = (408, 425, 429, 500, 502, 503, 504)
_URL_LENGTH = 2048
_SHOWN = 200


@dataclass(frozen=True)
class Manners:
    """How to ask.

    Attributes:
        rate: Most requests in a second.
        retries: How often to try again if the server is busy, failing or gone.
        timeout: Seconds for one try.
    """

    rate: float = 5.0
    retries: int = 4
    timeout: float = 60.0


@dataclass(frozen=True)
class _Later:
    """Why a try failed, and after how many seconds the server would be asked again."""

    reason: str
    seconds: float = 0.0


class Endpoint:
    """A model at an address.

    Args:
        url: That images are posted to, in full.
        language: The protocol.
        manners: How to ask.
        headers: To send along; secrets.

    Raises:
        ConfigError: The address is none, or would give a secret away.

    Example:
        >>> from smdl_flower.interface.plain import Plain
        >>> Endpoint("https://user:secret@example.org/ask", Plain())
        Traceback (most recent call last):
        ...
        smdl_flower.errors.ConfigError: --predictor: an address with a user, a query or a fragment \
would be written down with its secrets; put those into --header-file
    """

    def __init__(
        self,
        url: str,
        language: Language,
        manners: Manners | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = _checked(url, bool(headers))
        self._language = language
        self._manners = manners or Manners()
        self._client = httpx.Client(
            timeout=self._manners.timeout,
            headers=dict(headers or {}),
            follow_redirects=False,
            # Questions are seconds apart: by then a kept connection is often closed, and fails.
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._next = 0.0

    @property
    def patience(self) -> float:
        """Seconds after which a question is given up, whatever the server does."""
        manners = self._manners
        # A try may take its time twice: once until the answer begins, once until it ends.
        tries = (manners.retries + 1) * (2 * manners.timeout + 1 / manners.rate)
        return tries + manners.retries * LONGEST_WAIT

    def __call__(self, images: Pixels) -> Said:
        """Ask about images ``(n, channels, height, width)``.

        Raises:
            SuspectAnswersError: No answer, or none that can be used.
        """
        body = self._answer(self._language.request(images))
        try:
            return self._language.answers(documents.parse(body), len(images))
        except SuspectAnswersError as error:
            raise SuspectAnswersError(f"{self.url} answers what cannot be used: {error}") from None

    def _answer(self, question: Body) -> bytes:
        attempt = 0
        while not isinstance(said := self._try(question), bytes):
            attempt += 1
            if attempt > self._manners.retries:
                raise SuspectAnswersError(f"{self.url}: {said.reason} (tried {attempt} times)")
            time.sleep(min(max(said.seconds, 2.0 ** (attempt - 1)), LONGEST_WAIT))
        return said

    def _keep_rate(self) -> None:
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + 1 / self._manners.rate

    def _try(self, question: Body) -> bytes | _Later:
        self._keep_rate()
        # identity: a few bytes that unpack to gigabytes are then not even asked for.
        headers = {"Content-Type": question.kind, "Accept": JSON, "Accept-Encoding": "identity"}
        deadline = time.monotonic() + self._manners.timeout
        try:
            with self._client.stream(
                "POST", self.url, content=question.content, headers=headers
            ) as response:
                if response.status_code in _BUSY:
                    return _Later(f"answers {response.status_code}", _retry_after(response))
                self._require_success(response)
                return self._body(response, deadline)
        except httpx.TimeoutException:
            return _Later(f"no answer within {self._manners.timeout:g} seconds; raise --timeout")
        except httpx.TransportError as error:
            return _Later(f"{type(error).__name__}: {str(error)[:_SHOWN]}")

    def _require_success(self, response: httpx.Response) -> None:
        status = response.status_code
        if response.is_redirect:
            target = response.headers.get("location", "")[:_SHOWN]
            raise SuspectAnswersError(
                f"{self.url} sends us to {target!r}; if that is right, name that address"
            )
        if status != 200:
            start = next(response.iter_raw(), b"")[:_SHOWN].decode("latin-1")
            raise SuspectAnswersError(f"{self.url} answers {status}: {start!r}")
        packed = response.headers.get("content-encoding", "identity")
        if packed.lower() != "identity":
            raise SuspectAnswersError(f"{self.url} answers packed as {packed[:_SHOWN]!r}, unasked")

    def _body(self, response: httpx.Response, deadline: float) -> bytes | _Later:
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > MOST_BYTES:
                raise SuspectAnswersError(f"{self.url} answers with over {MOST_BYTES:,} bytes")
            if time.monotonic() > deadline:
                return _Later(f"no whole answer within {self._manners.timeout:g} seconds")
        return bytes(body)


def is_address(name: str) -> bool:
    """Return whether a predictor's name is an address."""
    return name.lower().startswith(("http://", "https://"))


def _checked(url: str, secret: bool) -> str:
    try:
        parsed = httpx.URL(url)
        known = parsed.scheme in ("http", "https") and parsed.host and (parsed.port or 0) < 1 << 16
    except httpx.InvalidURL:
        known = False
    if not known or len(url) > _URL_LENGTH or not url.isprintable():
        raise ConfigError(f"--predictor: {url[:_SHOWN]!r} is no address")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError(
            "--predictor: an address with a user, a query or a fragment would be written down with "
            "its secrets; put those into --header-file"
        )
    if secret and parsed.scheme == "http" and not is_loopback(parsed.host):
        raise ConfigError(f"--header-file would go to {parsed.host} unencrypted; use https")
    return str(parsed)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "example.org")]
        [True, True, True, False]
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _retry_after(response: httpx.Response) -> float:
    """Seconds, from a number or a date; 0 if it says neither."""
    value = response.headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return 0.0
