"""Which node is which participant: written down, since Flower's list has no names."""

import json

import pytest

from smdl_flower.deployment import admission, folders
from smdl_flower.errors import ConfigError, FederationError
from smdl_flower.flower.control import Control

NAMES = ("clinic-a", "clinic-b", "bank-c")


@pytest.fixture
def federation(tmp_path):
    return folders.create(tmp_path / "federation", "flower.example.org", NAMES, port=8000)


class Server(Control):
    """A server that answers as Flower's command does, and counts what it is asked."""

    known: list[str]
    online: tuple[str, ...]

    def __init__(self, known=(), online=()):
        super().__init__({})
        object.__setattr__(self, "known", list(known))
        object.__setattr__(self, "online", online)

    def call(self, *arguments):
        if arguments[:2] == ("supernode", "list"):
            listed = [("online", n) for n in self.online] + [("offline", "77")]
            return {"nodes": [{"node-id": node, "status": status} for status, node in listed]}
        key = arguments[2].rsplit("/", 1)[-1]
        if key in self.known:
            raise FederationError("flwr supernode failed: [code: 23] Public key already in use.")
        self.known.append(key)
        return {"success": True, "node-id": 1000 + len(self.known)}


def test_all_are_admitted_once_and_their_numbers_kept(federation):
    server = Server()
    assert admission.admit(federation, server) == list(NAMES)
    assert admission.admit(federation, server) == []
    numbers = {"clinic-a": "1001", "clinic-b": "1002", "bank-c": "1003"}
    assert admission.nodes(federation) == numbers
    path = federation.state / "nodes.json"
    assert json.loads(path.read_text())["format"] == "smdl-nodes/1"
    assert path.stat().st_mode & 0o077 == 0


def test_a_key_that_was_admitted_by_other_means_is_no_error_and_has_no_number(federation):
    assert admission.admit(federation, Server(known=["clinic-b.pub"])) == ["clinic-a", "bank-c"]
    assert set(admission.nodes(federation)) == {"clinic-a", "bank-c"}


def test_a_server_that_forgot_everybody_admits_them_anew_after_clean(federation):
    admission.admit(federation, Server())
    (federation.state / "nodes.json").unlink()  # as clean does, with the whole directory
    assert admission.admit(federation, Server()) == list(NAMES)


def test_any_other_refusal_ends_it_and_keeps_whom_the_server_knows(federation):
    class Broken(Server):
        def call(self, *arguments):
            if "bank-c" in arguments:
                raise FederationError("flwr supernode failed: no such host")
            return super().call(*arguments)

    with pytest.raises(FederationError, match="no such host"):
        admission.admit(federation, Broken())
    assert set(admission.nodes(federation)) == {"clinic-a", "clinic-b"}


def test_a_run_is_not_begun_with_too_few_and_the_missing_are_named(federation):
    admission.admit(federation, Server())
    server = Server(online=("1001", "1003"))
    assert admission.require_connected(federation, server, least=2) == ["clinic-b"]
    with pytest.raises(
        FederationError, match=r"2 participants .* needs 3.*start those of clinic-b"
    ):
        admission.require_connected(federation, server, least=3)


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 9999, '{"format": "smdl-nodes/1", "nodes": {"clinic-a": 1}}']
)
def test_a_damaged_file_is_refused(federation, content):
    federation.state.mkdir()
    (federation.state / "nodes.json").write_text(content)
    with pytest.raises(ConfigError, match="not as it was written"):
        admission.nodes(federation)
