"""The registry: append-only, authenticated, shared by processes, and nothing else is believed."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from smdl_flower import files, nodekeys
from smdl_flower.entries import AskedRecord, BroadcastRecord, DeliveryRecord
from smdl_flower.errors import ConfigError, IntegrityError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.nodekeys import NodePublicKey
from smdl_flower.registry import Registry, check_names

KEY = OwnerKey(bytes(32))
NAMES = ("clinic-a", "bank-b", "police.c", "d")
MODEL, MANIFEST = "0123456789abcdef", "ab" * 32
ENTRIES = len(NAMES) + 1 + 2  # customers, a model, two copies

# The first entry of a registry under the all-zero key, as version 0.1.0 wrote it.
GOLDEN_ENTRY = (
    0,
    "customer",
    '{"name": "clinic-a"}',
    "3c603fd6a4c0a26a2f460c9ba21b73432f43e000ce6a5794b4852ced727f0ba2",
)


def open_registry(folder: Path, key: OwnerKey = KEY) -> Registry:
    return Registry(f"sqlite:///{folder}/registry.db", [key], folder / "registry.head")


def create(folder: Path, key: OwnerKey = KEY) -> Registry:
    folder.mkdir(exist_ok=True)
    return Registry.create(f"sqlite:///{folder}/registry.db", [key], folder / "registry.head")


def execute(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "registry.db")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def rows(folder: Path) -> list[tuple[int, str, str, str]]:
    connection = sqlite3.connect(folder / "registry.db")
    found = connection.execute("SELECT * FROM smdl_registry_1 ORDER BY number").fetchall()
    connection.close()
    return found


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    registry = create(folder)
    registry.add_customers(NAMES)
    registry.record_model(MODEL, MANIFEST)
    registry.record_copy(MODEL, "clinic-a", "01" * 32)
    registry.record_copy(MODEL, "bank-b", "02" * 32)
    return folder


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    """A registry of a test's own, with seven entries."""
    shutil.copytree(filled, tmp_path / "registry")
    return tmp_path / "registry"


def read_all(folder: Path, key: OwnerKey = KEY) -> tuple[object, ...]:
    registry = open_registry(folder, key)
    return registry.customers(), registry.models(), registry.copies(MODEL)


# ------------------------------------------------------------------------------------- contents


def test_a_reopened_registry_says_what_the_first_one_said(folder: Path) -> None:
    customers, models, copies = read_all(folder)
    assert customers == NAMES
    assert models == {MODEL: MANIFEST}
    assert [(c.customer, c.weights_sha256) for c in open_registry(folder).copies(MODEL)] == [
        ("clinic-a", "01" * 32),
        ("bank-b", "02" * 32),
    ]
    assert read_all(folder) == (customers, models, copies)
    assert open_registry(folder).copies("another") == ()


def test_recording_the_same_again_records_nothing(folder: Path) -> None:
    registry = open_registry(folder)
    first = registry.copies(MODEL)[0]
    assert registry.record_copy(MODEL, "clinic-a", "01" * 32) == first
    registry.record_model(MODEL, MANIFEST)
    assert len(rows(folder)) == ENTRIES


def test_a_second_copy_or_manifest_is_refused_and_nothing_recorded(folder: Path) -> None:
    registry = open_registry(folder)
    with pytest.raises(IntegrityError, match="another copy"):
        registry.record_copy(MODEL, "clinic-a", "ff" * 32)
    with pytest.raises(IntegrityError, match="another manifest"):
        registry.record_model(MODEL, "ff" * 32)
    with pytest.raises(ConfigError, match="'nobody' is unknown"):
        registry.record_copy(MODEL, "nobody", "01" * 32)
    assert len(rows(folder)) == ENTRIES
    assert read_all(folder)[0] == NAMES


def test_a_customer_has_one_copy_of_each_model(folder: Path) -> None:
    registry = open_registry(folder)
    registry.record_model("fedcba9876543210", "cd" * 32)
    registry.record_copy("fedcba9876543210", "clinic-a", "03" * 32)
    assert [c.weights_sha256 for c in registry.copies("fedcba9876543210")] == ["03" * 32]
    assert len(registry.copies(MODEL)) == 2


@pytest.mark.parametrize(
    "bad",
    [
        "",
        ".hidden",
        "-x",
        "_x",
        "a/b",
        "../up",
        "a b",
        "a\n",
        "a\x00",
        "a" * 65,
        "Zoë",
        "a\\b",
        "a:b",
        "a;DROP TABLE smdl_registry_1",
    ],
)
def test_a_name_unfit_for_a_file_is_refused_with_all_that_came_along(
    folder: Path, bad: str
) -> None:
    with pytest.raises(ConfigError, match="letter or digit first"):
        open_registry(folder).add_customers(["new-1", bad, "new-2"])
    with pytest.raises(ConfigError):
        check_names(["new-1", bad])
    assert read_all(folder)[0] == NAMES


@pytest.mark.parametrize(
    "names", [["clinic-a"], ["CLINIC-A"], ["new", "Clinic-A"], ["new", "new"], ["new", "NEW"]]
)
def test_a_name_taken_already_is_refused_whatever_its_case(folder: Path, names: list[str]) -> None:
    registry = open_registry(folder)
    with pytest.raises(ConfigError, match="nothing was added"):
        registry.add_customers(names)
    assert registry.customers() == NAMES
    registry.add_customers(["new"])  # and the registry can still be used
    assert read_all(folder)[0] == (*NAMES, "new")


def test_the_longest_and_oddest_allowed_names_are_taken(folder: Path) -> None:
    names = ["a" * 64, "0", "9.-_", "A-b_c.d"]
    open_registry(folder).add_customers(names)
    assert read_all(folder)[0] == (*NAMES, *names)


def test_a_registry_is_not_created_over_another(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there already"):
        create(folder)
    assert read_all(folder)[0] == NAMES


@pytest.mark.parametrize("url", ["nonsense", "nonsense://host/db", ""])
def test_a_url_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="registry"):
        Registry.create(url, [KEY], tmp_path / "registry.head")


def test_a_database_that_cannot_be_reached_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be created"):
        Registry.create(f"sqlite:///{tmp_path}/missing/registry.db", [KEY], tmp_path / "head")


# ------------------------------------------------------------------------------------ tampering


@pytest.mark.parametrize("number", range(ENTRIES))
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE smdl_registry_1 SET body = replace(body, 'a', 'b') || ' ' WHERE number = {n}",
        "UPDATE smdl_registry_1 SET kind = 'other' WHERE number = {n}",
        "UPDATE smdl_registry_1 SET mac = substr(mac, 2) || substr(mac, 1, 1) WHERE number = {n}",
        "UPDATE smdl_registry_1 SET mac = upper(mac) || '' WHERE number = {n}",
        "UPDATE smdl_registry_1 SET number = number + 1000 WHERE number = {n}",
        "UPDATE smdl_registry_1 SET number = -1 - number WHERE number = {n}",
        "DELETE FROM smdl_registry_1 WHERE number = {n}",
        "DELETE FROM smdl_registry_1 WHERE number >= {n}",
    ],
)
def test_any_changed_moved_or_removed_entry_is_noticed(
    folder: Path, number: int, change: str
) -> None:
    execute(folder, change.format(n=number))
    with pytest.raises(IntegrityError, match="registry"):
        open_registry(folder).customers()
    with pytest.raises(IntegrityError):
        open_registry(folder).add_customers(["new"])


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 3), (5, 6), (0, 6)])
def test_swapped_entries_are_noticed(folder: Path, first: int, second: int) -> None:
    move = "UPDATE smdl_registry_1 SET number = {} WHERE number = {}"
    execute(folder, move.format(99, first), move.format(first, second), move.format(second, 99))
    with pytest.raises(IntegrityError):
        read_all(folder)


def test_swapped_names_are_noticed(folder: Path) -> None:
    first, second = (row[2] for row in rows(folder)[:2])
    execute(
        folder,
        f"UPDATE smdl_registry_1 SET body = '{second}' WHERE number = 0",  # noqa: S608
        f"UPDATE smdl_registry_1 SET body = '{first}' WHERE number = 1",  # noqa: S608
    )
    with pytest.raises(IntegrityError):
        read_all(folder)


@pytest.mark.parametrize("source", [0, 4, 6])
def test_an_entry_appended_without_the_key_is_noticed(folder: Path, source: int) -> None:
    _, kind, body, mac = rows(folder)[source]
    values = f"({ENTRIES}, '{kind}', '{body}', '{mac}')"
    execute(folder, f"INSERT INTO smdl_registry_1 VALUES {values}")  # noqa: S608
    with pytest.raises(IntegrityError, match="entry 7"):
        read_all(folder)


def test_a_tail_removed_while_the_registry_is_open_is_noticed_by_the_next_to_open_it(
    folder: Path,
) -> None:
    registry = open_registry(folder)
    assert registry.customers() == NAMES
    execute(folder, "DELETE FROM smdl_registry_1 WHERE number >= 5")
    with pytest.raises(IntegrityError, match="5 entries, 7 were written"):
        read_all(folder)


def test_a_removed_table_or_database_is_noticed(folder: Path) -> None:
    execute(folder, "DROP TABLE smdl_registry_1")
    with pytest.raises(IntegrityError, match="cannot be used"):
        read_all(folder)
    (folder / "registry.db").write_bytes(b"no database" * 100)
    with pytest.raises(IntegrityError, match="cannot be used"):
        read_all(folder)
    (folder / "registry.db").unlink()
    with pytest.raises(IntegrityError):
        read_all(folder)


def test_an_entry_of_a_kind_that_a_newer_release_wrote_is_not_passed_over(folder: Path) -> None:
    previous = bytes.fromhex(rows(folder)[-1][3])
    message = previous + json.dumps(["smdl-registry/1", ENTRIES, "revocation", "{}"]).encode()
    mac = KEY.authenticate("registry", message).hex()
    values = f"({ENTRIES}, 'revocation', '{{}}', '{mac}')"
    execute(folder, f"INSERT INTO smdl_registry_1 VALUES {values}")  # noqa: S608
    with pytest.raises(IntegrityError, match="newer"):
        read_all(folder)


def test_another_owners_key_does_not_open_it(folder: Path) -> None:
    with pytest.raises(IntegrityError):
        read_all(folder, OwnerKey(b"\x01" + bytes(31)))


def test_another_registry_of_the_same_owner_does_not_pass_for_this_one(
    folder: Path, tmp_path: Path
) -> None:
    other = create(tmp_path / "other")
    other.add_customers([f"x{i}" for i in range(ENTRIES)])
    shutil.copy(tmp_path / "other" / "registry.db", folder / "registry.db")
    with pytest.raises(IntegrityError, match="head file"):
        read_all(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda head: {**head, "mac": "00" * 32},
        lambda head: {**head, "entries": head["entries"] - 1},
        lambda head: {**head, "entries": head["entries"] + 1},
        lambda head: {**head, "entries": "many"},
        lambda head: {"format": head["format"]},
        lambda _: [],
        lambda _: None,
    ],
)
def test_a_replaced_head_file_is_noticed(
    folder: Path, change: Callable[[dict[str, int]], object]
) -> None:
    head = json.loads((folder / "registry.head").read_bytes())
    files.write_json(folder / "registry.head", change(head))
    with pytest.raises(IntegrityError):
        read_all(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_damaged_or_missing_head_file_is_noticed(folder: Path, content: bytes) -> None:
    (folder / "registry.head").write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged"):
        read_all(folder)
    (folder / "registry.head").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        read_all(folder)


def test_a_head_file_left_behind_by_a_crash_after_the_commit_is_accepted(folder: Path) -> None:
    head = (folder / "registry.head").read_bytes()
    open_registry(folder).add_customers(["late"])
    (folder / "registry.head").write_bytes(head)
    assert read_all(folder)[0] == (*NAMES, "late")
    open_registry(folder).add_customers(["later"])  # and brings the head up to date
    assert json.loads((folder / "registry.head").read_bytes())["entries"] == ENTRIES + 2


# ------------------------------------------------------------------------------------ sharing


def test_two_open_registries_see_what_the_other_adds(folder: Path) -> None:
    first, second = open_registry(folder), open_registry(folder)
    for number in range(6):
        writer, reader = (first, second) if number % 2 else (second, first)
        writer.add_customers([f"new-{number}"])
        assert reader.customers()[-1] == f"new-{number}"
    assert first.customers() == second.customers() == read_all(folder)[0]
    with pytest.raises(ConfigError, match="nothing was added"):
        first.add_customers(["new-0"])


def test_a_failed_addition_leaves_an_open_registry_in_step_with_the_other(folder: Path) -> None:
    first, second = open_registry(folder), open_registry(folder)
    second.add_customers(["from-second"])
    with pytest.raises(ConfigError):
        first.add_customers(["from-first", "bad name"])
    second.add_customers(["again"])
    assert first.customers() == (*NAMES, "from-second", "again")
    first.record_copy(MODEL, "again", "05" * 32)
    assert second.copies(MODEL)[-1].customer == "again"


def test_two_processes_that_add_at_once_leave_one_whole_chain(tmp_path: Path) -> None:
    create(tmp_path / "registry")
    script = (
        "import sys; from pathlib import Path; from smdl_flower.registry import Registry; "
        "from smdl_flower.fingerprint.keys import OwnerKey; folder = Path(sys.argv[1]); "
        "r = Registry(f'sqlite:///{folder}/registry.db', [OwnerKey(bytes(32))], "
        "folder / 'registry.head'); "
        "[r.add_customers([f'{sys.argv[2]}-{i}']) for i in range(50)]"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "registry"), name])
        for name in ("left", "right")
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    customers = open_registry(tmp_path / "registry").customers()
    assert sorted(customers) == sorted(f"{n}-{i}" for n in ("left", "right") for i in range(50))
    assert len(rows(tmp_path / "registry")) == 100


# ---------------------------------------------------------------------------------- for all time


def test_a_registry_written_by_the_first_release_is_read_forever(tmp_path: Path) -> None:
    create(tmp_path)
    number, kind, body, mac = GOLDEN_ENTRY
    values = f"({number}, '{kind}', '{body}', '{mac}')"
    execute(tmp_path, f"INSERT INTO smdl_registry_1 VALUES {values}")  # noqa: S608
    seal = OwnerKey(bytes(32)).authenticate(
        "registry-head", f'["smdl-registry/1", 1, "{mac}"]'.encode()
    )
    document = {"format": "smdl-registry/1", "entries": 1, "mac": mac, "seal": seal.hex()}
    files.write_json(tmp_path / "registry.head", document)
    assert open_registry(tmp_path).customers() == ("clinic-a",)


def test_neither_database_nor_head_file_hold_the_key(tmp_path: Path) -> None:
    key = OwnerKey(bytes(range(50, 82)))
    create(tmp_path, key).add_customers(["clinic-a"])
    for path in (tmp_path / "registry.db", tmp_path / "registry.head"):
        content = path.read_bytes()
        assert key.secret not in content
        assert key.secret.hex().encode() not in content


@pytest.mark.parametrize("entries", [0, 1, -1, 5])
def test_a_head_that_the_key_did_not_seal_is_refused_every_time(
    tmp_path: Path, entries: int
) -> None:
    registry = create(tmp_path)
    registry.add_customers(["clinic-a", "bank-b"])
    head = json.loads((tmp_path / "registry.head").read_text())
    files.write_json(tmp_path / "registry.head", {**head, "entries": entries})
    for _ in range(2):
        with pytest.raises(IntegrityError):
            registry.customers()


def test_cutting_database_and_head_back_to_an_entry_of_the_log_is_noticed(tmp_path: Path) -> None:
    """The HMAC of every entry is in the database, but the head's seal is made from the key."""
    create(tmp_path).add_customers(["clinic-a", "bank-b"])
    head = json.loads((tmp_path / "registry.head").read_text())
    with closing(sqlite3.connect(tmp_path / "registry.db")) as database, database:
        (mac,) = database.execute("SELECT mac FROM smdl_registry_1 WHERE number = 0").fetchone()
        database.execute("DELETE FROM smdl_registry_1 WHERE number = 1")
    files.write_json(tmp_path / "registry.head", {**head, "entries": 1, "mac": mac})
    with pytest.raises(IntegrityError):
        open_registry(tmp_path).customers()


def test_an_older_head_never_replaces_a_newer_one(tmp_path: Path) -> None:
    first, second = create(tmp_path), open_registry(tmp_path)
    second.add_customers(["clinic-a"])
    newer = (tmp_path / "registry.head").read_bytes()
    first._chain._write_head()
    assert (tmp_path / "registry.head").read_bytes() == newer


# ------------------------------------------------------------------------- models sent in training


def sent(*nodes: str, run: str = "trial-1", number: int = 1, model: str = "ab" * 32):
    spec = {"name": "cnn", "channels": 1, "classes": 10, "image_size": 28}
    return BroadcastRecord(model, ("front",), run, number, spec, 131_992, nodes)


def test_broadcasts_are_recorded_once_for_each_node_and_read_back(tmp_path: Path) -> None:
    registry = create(tmp_path)
    registry.record_broadcast(sent("1", "2"))
    registry.record_broadcast(sent("1", "2"))  # an interrupted run goes on
    registry.record_broadcast(sent("2", "3"))  # others evaluate it
    registry.record_broadcast(sent(number=2, model="cd" * 32))  # the result, sent to nobody
    registry.record_broadcast(sent(number=2, model="cd" * 32))
    assert len(rows(tmp_path)) == 3
    reopened = open_registry(tmp_path)
    assert reopened.broadcasts() == (sent("1", "2", "3"), sent(number=2, model="cd" * 32))
    assert reopened.broadcast_words() == 3


def test_a_word_is_counted_once_however_often_its_model_is_sent(tmp_path: Path) -> None:
    registry = create(tmp_path)
    registry.record_broadcast(sent("1", "2"))
    registry.record_broadcast(sent("1", "2", run="trial-2"))  # the same initial model
    registry.record_broadcast(sent("1", number=2, model="cd" * 32))
    assert registry.broadcast_words() == 3


def test_many_nodes_are_split_over_entries(tmp_path: Path) -> None:
    registry = create(tmp_path)
    nodes = tuple(str(2**63 + n) for n in range(2500))
    registry.record_broadcast(sent(*nodes))
    assert len(rows(tmp_path)) == 3
    assert all(len(body) < 2**16 for _, _, body, _ in rows(tmp_path))
    assert open_registry(tmp_path).broadcasts() == (sent(*nodes),)


def test_the_first_word_of_a_node_about_who_it_is_counts(tmp_path: Path) -> None:
    registry = create(tmp_path)
    registry.record_participants("trial-1", {"1": "0", "2": "1"})
    registry.record_participants("trial-1", {"1": "7", "2": "1"})
    assert len(rows(tmp_path)) == 2
    assert registry.participant("trial-1", "1") == "0"
    assert registry.participant("trial-2", "1") is None


def test_a_changed_broadcast_is_noticed(tmp_path: Path) -> None:
    create(tmp_path).record_broadcast(sent("1"))
    execute(tmp_path, """UPDATE smdl_registry_1 SET body = replace(body, '["1"]', '["2"]')""")
    with pytest.raises(IntegrityError, match="entry 0 was changed"):
        open_registry(tmp_path).broadcasts()


# ------------------------------------------------------------------------------ keys and deliveries


def public_key(number: int) -> NodePublicKey:
    return nodekeys.public_half(ec.derive_private_key(number, ec.SECP384R1()))


def test_customers_have_the_keys_they_were_given_last(tmp_path: Path) -> None:
    registry = create(tmp_path)
    registry.add_customers(["clinic-a", "bank-b", "c"], {"clinic-a": public_key(1)})
    registry.set_key("bank-b", public_key(2))
    registry.set_key("clinic-a", public_key(3))
    registry.set_key("clinic-a", public_key(3))  # once more: no entry
    assert open_registry(tmp_path).public_keys() == {
        "clinic-a": public_key(3),
        "bank-b": public_key(2),
    }
    assert len(rows(tmp_path)) == 3 + 3


@pytest.mark.parametrize("replaced", [False, True])
def test_a_key_is_one_customers_for_ever(replaced: bool, tmp_path: Path) -> None:
    registry = create(tmp_path)
    registry.add_customers(["clinic-a", "bank-b"], {"clinic-a": public_key(1)})
    if replaced:
        registry.set_key("clinic-a", public_key(2))
    with pytest.raises(ConfigError, match="the public key of 'bank-b' is that of 'clinic-a'"):
        registry.set_key("bank-b", public_key(1))
    both = {"d": public_key(4), "e": public_key(4)}
    with pytest.raises(ConfigError, match="is that of 'd'"):
        registry.add_customers(["d", "e"], both)
    assert open_registry(tmp_path).customers() == ("clinic-a", "bank-b")  # all or none
    assert "bank-b" not in registry.public_keys()


def test_a_key_of_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'clinic-a' is unknown"):
        create(tmp_path).set_key("clinic-a", public_key(1))


def test_a_changed_key_is_noticed(tmp_path: Path) -> None:
    registry = create(tmp_path)
    registry.add_customers(["clinic-a"], {"clinic-a": public_key(1)})
    execute(tmp_path, "UPDATE smdl_registry_1 SET body = replace(body, 'nistp384 A', 'nistp384 B')")
    with pytest.raises(IntegrityError, match="entry 1 was changed"):
        open_registry(tmp_path).public_keys()


def delivered(**changes: str) -> DeliveryRecord:
    values = {"model_id": MODEL, "customer": "clinic-a", "weights_sha256": "01" * 32, **changes}
    return DeliveryRecord(**values, run="trial-1", statement=("a", "b"), signature="3065")


def test_a_delivery_is_read_back_as_it_was_recorded(filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "r")
    registry = open_registry(tmp_path / "r")
    copy = registry.copies(MODEL)[0]
    record = delivered(customer=copy.customer, weights_sha256=copy.weights_sha256)
    registry.record_delivery(record)
    assert open_registry(tmp_path / "r").deliveries() == (record,)


def test_only_a_copy_that_was_issued_can_have_been_delivered(filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "r")
    registry = open_registry(tmp_path / "r")
    copy = registry.copies(MODEL)[0]
    for record in (
        delivered(customer="d", weights_sha256=copy.weights_sha256),
        delivered(customer=copy.customer, weights_sha256="ff" * 32),
        delivered(customer=copy.customer, weights_sha256=copy.weights_sha256, model_id="0" * 16),
    ):
        with pytest.raises(IntegrityError, match="never issued to"):
            registry.record_delivery(record)
    assert registry.deliveries() == ()


def test_who_was_asked_which_pool_is_kept_once_and_cannot_be_taken_back(folder: Path) -> None:
    registry = open_registry(folder)
    asked = [AskedRecord(MODEL, pool, suspect) for pool in (1, 2) for suspect in ("a", "b")]
    for record in (*asked, *asked):
        registry.record_asked(record)
    registry.record_asked(AskedRecord("f" * 16, 1, "a"))
    again = open_registry(folder)
    assert again.asked(MODEL) == tuple(asked)
    assert len(rows(folder)) == ENTRIES + 5
    execute(folder, "DELETE FROM smdl_registry_1 WHERE kind = 'asked'")
    with pytest.raises(IntegrityError):
        open_registry(folder).asked(MODEL)
