"""An endpoint: asked politely, believed nothing, and one error whatever it does."""

import gzip
import json
import socket
import ssl
import threading
import time
from email.utils import formatdate

import httpx
import numpy as np
import pytest

from smdl_flower.deployment import certificates
from smdl_flower.errors import ConfigError, SuspectAnswersError
from smdl_flower.interface import client
from smdl_flower.interface.client import MOST_BYTES, Endpoint, Manners
from smdl_flower.interface.plain import Plain
from tests.interface.conftest import answer, listening

IMAGES = np.zeros((2, 1, 8, 8), np.uint8)
GOOD = json.dumps({"format": "smdl-ask/1", "labels": [3, 5]}).encode()
QUICK = Manners(rate=1e6, retries=0, timeout=5)


@pytest.fixture
def naps(monkeypatch):
    """Waits are written down instead."""
    taken: list[float] = []
    monkeypatch.setattr(time, "sleep", taken.append)
    return taken


def ask(url: str, manners: Manners = QUICK, **options):
    return Endpoint(url, Plain(), manners=manners, **options)(IMAGES)


def test_images_are_posted_and_the_answer_is_read():
    with listening(answer(GOOD)) as server:
        assert np.asarray(ask(server.url)).tolist() == [3, 5]
    ((path, headers, body),) = server.posted
    assert path == "/ask"
    assert headers["accept-encoding"] == "identity"
    assert len(json.loads(body)["images"]) == 2
    assert not any("smdl" in value for value in headers.values())


def test_secrets_go_into_headers_and_into_no_error():
    secret = {"Authorization": "Bearer s3cret"}
    with listening(answer(b"no", 401)) as server:
        with pytest.raises(SuspectAnswersError, match="401: 'no'") as caught:
            ask(server.url, headers=secret)
        assert server.posted[0][1]["authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(Endpoint(server.url, Plain(), headers=secret))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(status):
    with listening(answer(GOOD)) as other:
        there = answer(b"", status, Location=other.url)
        with (
            listening(there) as server,
            pytest.raises(SuspectAnswersError, match=r"sends us to .*name that address"),
        ):
            ask(server.url, headers={"Authorization": "Bearer s3cret"})
        assert other.posted == []


def test_a_packed_answer_is_not_unpacked():
    bomb = gzip.compress(bytes(50 << 20))
    with (
        listening(answer(bomb, Content_Encoding="gzip")) as server,
        pytest.raises(SuspectAnswersError, match="packed as 'gzip'"),
    ):
        ask(server.url)


def test_an_endless_answer_is_cut_off():
    sent = 0

    def flood(handler, _):
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        while sent < 20 * MOST_BYTES:
            handler.wfile.write(bytes(1 << 16))
            sent += 1 << 16

    with listening(flood) as server, pytest.raises(SuspectAnswersError, match="over 4,194,304"):
        ask(server.url)
    assert sent < 5 * MOST_BYTES  # what sockets hold in between


def test_a_dripping_answer_is_given_up(naps):
    stop = threading.Event()

    def drip(handler, _):
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b" ")

    with listening(drip) as server:
        started = time.monotonic()
        with pytest.raises(SuspectAnswersError, match="no whole answer"):
            ask(server.url, Manners(rate=1e6, retries=1, timeout=0.3))
        assert time.monotonic() - started < 5
        stop.set()
    assert len(server.posted) == 2


def test_silence_ends_after_the_timeout_and_is_tried_again(naps):
    stop = threading.Event()

    def silent(*_):
        stop.wait(5)

    with listening(silent) as server:
        with pytest.raises(SuspectAnswersError, match=r"--timeout \(tried 2 times\)"):
            ask(server.url, Manners(rate=1e6, retries=1, timeout=0.2))
        stop.set()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_later_and_later(naps, status):
    def busy(handler, count):
        answer(GOOD if count == 4 else b"", 200 if count == 4 else status)(handler, count)

    with listening(busy) as server:
        assert np.asarray(ask(server.url, Manners(rate=1e6, retries=3))).tolist() == [3, 5]
    assert [nap for nap in naps if nap >= 1] == [1, 2, 4]
    bodies = {body for _, _, body in server.posted}
    assert len(bodies) == 1


@pytest.mark.parametrize(
    ("says", "least", "most"),
    [
        ("7", 7, 7),
        ("100000", 60, 60),
        ("9" * 400, 60, 60),
        (20, 10, 20),
        (10**6, 60, 60),
        (formatdate(0), 1, 1),
        ("-5", 1, 1),
        ("soon", 1, 1),
        ("\xb2", 1, 1),
    ],
)
def test_retry_after_is_kept_up_to_a_minute(naps, says, least, most):
    if isinstance(says, int):
        says = formatdate(time.time() + says, usegmt=True)
    with (
        listening(answer(b"", 503, Retry_After=says)) as server,
        pytest.raises(SuspectAnswersError, match=r"answers 503 \(tried 2 times\)"),
    ):
        ask(server.url, Manners(rate=1e6, retries=1))
    (nap,) = (nap for nap in naps if nap >= 1)
    assert least <= nap <= most


def test_mistakes_are_not_repeated(naps):
    for status in (400, 404, 204, 206):
        with (
            listening(answer(b"", status)) as server,
            pytest.raises(SuspectAnswersError, match=str(status)),
        ):
            ask(server.url, Manners(rate=1e6, retries=3))
        assert len(server.posted) == 1


def test_requests_keep_their_rate():
    with listening(answer(GOOD)) as server:
        endpoint = Endpoint(server.url, Plain(), Manners(rate=20, retries=0))
        started = time.monotonic()
        for _ in range(4):
            endpoint(IMAGES)
    assert time.monotonic() - started >= 3 / 20


def test_nobody_there_is_one_error(naps):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SuspectAnswersError, match=r"ConnectError: .*tried 3 times"):
        ask(f"http://127.0.0.1:{port}/", Manners(rate=1e6, retries=2))
    assert len([nap for nap in naps if nap >= 1]) == 2


@pytest.mark.parametrize(
    "bytes_", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"]
)
def test_what_is_no_http_is_one_error(naps, bytes_):
    def speak(handler, _):
        handler.wfile.write(bytes_)

    with listening(speak) as server, pytest.raises(SuspectAnswersError, match="ProtocolError"):
        ask(server.url)


def test_an_answer_that_cannot_be_used_names_the_address():
    for content in (b"<html>", b"[]", GOOD.replace(b"3, 5", b"3, 5, 7"), b"[" * 99_999):
        with listening(answer(content)) as server:
            with pytest.raises(SuspectAnswersError, match="answers what cannot be used") as caught:
                ask(server.url)
            assert server.url in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "http://",
        "https://",
        "http://[::1",
        "http://example.org/\n",
        "http://u:s3cret@example.org/",
        "http://example.org/?key=s3cret",
        "http://example.org/#s3cret",
        "http://example.org/" + "x" * 3000,
        "http://example.org:99999999/",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(ConfigError, match="--predictor") as caught:
        Endpoint(url, Plain())
    assert "s3cret" not in str(caught.value)


def test_secrets_are_not_sent_in_clear_over_a_network():
    secret = {"Authorization": "Bearer s3cret"}
    for host in ("example.org", "10.0.0.1", "127.0.0.1.example.org"):
        with pytest.raises(ConfigError, match="unencrypted"):
            Endpoint(f"http://{host}/", Plain(), headers=secret)
    for url in ("https://example.org/", "http://localhost/", "http://[::1]:8000/"):
        assert Endpoint(url, Plain(), headers=secret).url == httpx.URL(url)


def test_patience_covers_every_try_and_every_wait():
    endpoint = Endpoint("http://localhost/", Plain(), Manners(rate=2, retries=3, timeout=10))
    assert endpoint.patience >= 4 * 10 + 3 * client.LONGEST_WAIT + 4 / 2


def test_a_server_must_prove_who_it_is(tmp_path, monkeypatch):
    """A certificate that nobody vouches for is refused; one of an authority that is named, not."""
    authority = certificates.create_authority()
    own = certificates.create_server(authority, "127.0.0.1")
    (tmp_path / "key.pem").write_bytes(own.key)
    (tmp_path / "cert.pem").write_bytes(own.certificate)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with listening(answer(GOOD), context) as server:
        assert server.url.startswith("https://")
        with pytest.raises(SuspectAnswersError, match="certificate verify failed"):
            ask(server.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert np.asarray(ask(server.url)).tolist() == [3, 5]
    assert len(server.posted) == 1
