"""``smdl deploy check``: nothing on a healthy folder, and one line for each thing that is wrong."""

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from smdl_flower.deployment import certificates, checking, folders
from smdl_flower.deployment.folders import Federation

NAMES = ("clinic-a", "clinic-b")


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return folders.create(tmp_path / "federation", "flower.example.org", NAMES, port=8000)


def days_from_now(days: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


def test_a_new_federation_has_no_problems(federation: Federation) -> None:
    assert checking.problems(federation) == []


@pytest.mark.parametrize(("days", "word"), [(334, None), (336, "expires on"), (366, "expired on")])
def test_certificates_are_reported_before_and_after_they_end(
    federation: Federation, days: int, word: str | None
) -> None:
    found = checking.problems(federation, days_from_now(days))
    assert len(found) == (2 if word else 0)  # authority and server
    assert all(word and word in line for line in found)


def remove(path: str) -> Callable[[Federation], None]:
    return lambda federation: (federation.folder / path).unlink()


def new_server(federation: Federation) -> None:
    other = certificates.create_server(certificates.create_authority(), "flower.example.org")
    (federation.owner / "server.crt").write_bytes(other.certificate)
    (federation.owner / "server.key").write_bytes(other.key)


def other_host(federation: Federation) -> None:
    owner = federation.owner
    authority = certificates.Credentials(
        (owner / "ca.key").read_bytes(), (owner / "ca.crt").read_bytes()
    )
    server = certificates.create_server(authority, "elsewhere.example.org")
    (owner / "server.crt").write_bytes(server.certificate)
    (owner / "server.key").write_bytes(server.key)


def swap_nodes(federation: Federation) -> None:
    key = federation.of("clinic-b") / "node.key"
    shutil.copy(key, federation.of("clinic-a") / "node.key")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (remove("owner/ca.key"), "owner/ca.key: missing"),
        (remove("owner/participants/clinic-a.pub"), "clinic-a cannot be admitted"),
        (remove("participants/clinic-b/start.sh"), "participants/clinic-b/start.sh: missing"),
        (lambda f: (f.owner / "server.crt").write_bytes(b"x"), "server.crt: no certificate"),
        (lambda f: (f.owner / "server.key").write_bytes(b"x"), "not the key of server.crt"),
        (lambda f: (f.of("clinic-a") / "node.key").write_bytes(b"x"), "not that of clinic-a.pub"),
        (lambda f: (f.of("clinic-a") / "ca.crt").write_bytes(b"x"), "differs from owner/ca.crt"),
        (lambda f: (f.owner / "server.key").chmod(0o640), "open to others (-rw-r-----)"),
        (lambda f: f.folder.chmod(0o755), "chmod -R go="),
        (new_server, "not signed by owner/ca.crt"),
        (other_host, "not for flower.example.org"),
        (swap_nodes, "not that of clinic-a.pub"),
    ],
)
def test_each_damage_is_named(
    federation: Federation, damage: Callable[[Federation], object], line: str
) -> None:
    damage(federation)
    found = checking.problems(federation)
    assert any(line in problem for problem in found), found


def test_a_folder_that_was_handed_over_and_removed_is_no_problem(federation: Federation) -> None:
    shutil.rmtree(federation.of("clinic-a"))
    assert checking.problems(federation) == []
