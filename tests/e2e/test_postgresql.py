"""The registry in PostgreSQL, against a real server."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from smdl_flower import backup, commitments, keyfile, models, rotation, weights
from smdl_flower.cli.main import run
from smdl_flower.errors import ConfigError, IntegrityError, SmdlError
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec

pytest.importorskip("psycopg", reason="needs the extra: pip install 'smdl-flower[postgres]'")

from tests.e2e import postgresql
from tests.e2e.postgresql import Server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CUSTOMERS = ("clinic-a", "bank-b", "police-c", "clinic-d")
WORDS = "of the backup"
COMMAND = "from smdl_flower.cli import main; main()"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    programs = postgresql.binaries()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    with postgresql.running(programs) as started:
        yield started


@pytest.fixture
def url(server: Server) -> str:
    return server.url(server.new_database())


@pytest.fixture
def home(tmp_path: Path, url: str) -> OwnerHome:
    """A home with four customers, made by the command line."""
    said("init", "--home", tmp_path / "home", "--registry", url)
    said("customer", "add", *CUSTOMERS, "--home", tmp_path / "home")
    return OwnerHome.open(tmp_path / "home")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = ModelSpec("cnn", channels=1, classes=4, image_size=8)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    weights.write(path, models.to_weights(models.build(spec, seed=3)), spec.to_metadata())
    return path


def said(*arguments: object, code: int = 0) -> str:
    """All that a command told; how it must end."""
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        ended = run([str(argument) for argument in arguments])
    assert ended == code, told.getvalue()
    return told.getvalue()


def issue(home: OwnerHome, model: Path, out: Path, *customers: str) -> None:
    names = [option for name in customers for option in ("--customer", name)]
    at = ("--home", home.path, "--out", out, "--no-fidelity-check")
    said("issue", model, *at, *names)


def execute(server: Server, home: OwnerHome, *statements: str) -> list[tuple[object, ...]]:
    """As whoever administers the database."""
    with server.connect(database_of(home)) as connection:
        found = [connection.execute(statement.encode()) for statement in statements]
        return found[-1].fetchall() if found[-1].description else []


def database_of(home: OwnerHome) -> str:
    url = json.loads((home.path / "home.json").read_bytes())["registry_url"]
    return str(url.rpartition("/")[2])


def entries(server: Server, home: OwnerHome) -> int:
    ((count,),) = execute(server, home, "select count(*) from smdl_registry_1")
    assert isinstance(count, int)
    return count


def test_copies_are_issued_and_traced(home: OwnerHome, model: Path, tmp_path: Path) -> None:
    issue(home, model, tmp_path / "copies")
    assert not (home.path / "registry.db").exists()
    for name in CUSTOMERS:
        told = said(
            *("verify", tmp_path / "copies" / f"{name}.safetensors"), "--home", home.path, "--json"
        )
        assert [a["customer"] for a in json.loads(told)["accused"]] == [name]
    said("key", "rotate", "--home", home.path)
    said("check", "--home", home.path)
    said("init", "--home", tmp_path / "second", "--registry", url_of(home), code=2)


def url_of(home: OwnerHome) -> str:
    return str(json.loads((home.path / "home.json").read_bytes())["registry_url"])


def test_two_processes_that_issue_at_once_lose_and_fork_nothing(
    server: Server, home: OwnerHome, model: Path, tmp_path: Path
) -> None:
    halves = (CUSTOMERS[:2], CUSTOMERS[2:])
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", COMMAND, "issue", model),
                *("--home", home.path, "--out", tmp_path / "copies", "--no-fidelity-check"),
                *(option for name in half for option in ("--customer", name)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for half in halves
    ]
    ends = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], ends
    (model_id,) = home.registry.models()
    assert {copy.customer for copy in home.registry.copies(model_id)} == set(CUSTOMERS)
    numbers = execute(server, home, "select number from smdl_registry_1 order by number")
    assert numbers == [(n,) for n in range(len(numbers))]
    assert len(commitments.of_home(home)) == 2
    said("check", "--home", home.path)


def test_many_writers_at_once_each_add_what_they_said(server: Server, home: OwnerHome) -> None:
    """Without the lock two would add the same number, and one of them fail."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom smdl_flower.home import OwnerHome\n"
        "home = OwnerHome.open(Path(sys.argv[1]))\n"
        "for n in range(20):\n    home.registry.add_customers([f'{sys.argv[2]}-{n}'])\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, home.path, name], stderr=subprocess.PIPE)
        for name in ("one", "two", "three")
    ]
    ends = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ends
    added = [f"{name}-{n}" for name in ("one", "two", "three") for n in range(20)]
    assert set(home.registry.customers()) == {*CUSTOMERS, *added}
    assert entries(server, home) == 1 + len(CUSTOMERS) + 60


@pytest.mark.parametrize(
    "statement",
    [
        "update smdl_registry_1 set body = replace(body, 'clinic-a', 'clinic-z')",
        "update smdl_registry_1 set mac = repeat('0', 64) where number = 1",
        "delete from smdl_registry_1 where number = (select max(number) from smdl_registry_1)",
        "delete from smdl_registry_1 where number = 2",
        "delete from smdl_registry_1",
        "insert into smdl_registry_1 values (99, 'customer', '{}', '')",
        "drop table smdl_registry_1",
    ],
)
def test_a_changed_row_ends_in_exit_code_4(
    server: Server, home: OwnerHome, model: Path, statement: str
) -> None:
    said("customer", "list", "--home", home.path)
    execute(server, home, statement)
    said("customer", "list", "--home", home.path, code=4)
    said("verify", model, "--home", home.path, code=4)


def test_a_table_of_a_later_version_is_told(server: Server, home: OwnerHome) -> None:
    execute(server, home, "alter table smdl_registry_1 rename to smdl_registry_2")
    assert "newer version" in said("customer", "list", "--home", home.path, code=4)


# ------------------------------------------------------------------------------------- broken lines


def terminate_others(server: Server) -> None:
    with server.connect() as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where pid <> pg_backend_pid() and datname like 'test_%'"
        )


def test_a_line_that_breaks_midway_is_one_error_and_records_nothing(
    server: Server, home: OwnerHome
) -> None:
    before = entries(server, home)

    def write() -> None:
        with home.registry._chain.writing() as (_, append):
            append("customer", {"name": "half"})
            terminate_others(server)
            append("customer", {"name": "other half"})

    with pytest.raises(ConfigError, match="broke off") as refusal:
        write()
    assert "\n" not in str(refusal.value)
    assert entries(server, home) == before
    assert home.registry.customers() == CUSTOMERS
    home.registry.add_customers(["afterwards"])
    assert home.registry.customers()[-1] == "afterwards"


def test_a_line_that_breaks_before_the_commit_records_nothing(
    server: Server, home: OwnerHome
) -> None:
    before = entries(server, home)

    def write() -> None:
        with home.registry._chain.writing() as (_, append):
            append("customer", {"name": "lost"})
            terminate_others(server)

    with pytest.raises(ConfigError, match="recorded as a whole or not at all"):
        write()
    assert entries(server, home) == before
    assert OwnerHome.open(home.path).registry.customers() == CUSTOMERS


def test_a_server_that_is_not_there_is_told_in_one_line(
    server: Server, home: OwnerHome, model: Path, tmp_path: Path
) -> None:
    settings = json.loads((home.path / "home.json").read_bytes())
    for wrong in (
        settings["registry_url"].replace(f":{server.port}/", ":1/"),
        settings["registry_url"].replace("smdl:", "smdl:not-the-"),
        settings["registry_url"].rpartition("/")[0] + "/no_such_database",
    ):
        (home.path / "home.json").write_text(json.dumps({**settings, "registry_url": wrong}))
        for command in (
            ("customer", "list"),
            ("verify", model),
            ("issue", model, "--out", tmp_path / "copies", "--no-fidelity-check"),
        ):
            told = said(*command, "--home", home.path, code=2)
            assert told.startswith("smdl: registry: the database cannot be reached")
            assert told.count("\n") == 1
            assert "wo:rd" not in told
    assert not (tmp_path / "copies").exists()


# ------------------------------------------------------------------------------------- the password


def forms(server: Server) -> list[str]:
    """The password, as it is and as a URL has it, and its random part."""
    escaped = server.url("x").partition("smdl:")[2].rpartition("@")[0]
    return [server.password, escaped, server.password.rpartition("?")[2]]


def test_the_password_is_in_no_output_log_repr_error_or_evidence(
    server: Server,
    home: OwnerHome,
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy", "psycopg"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    issue(home, model, tmp_path / "copies")
    suspect = tmp_path / "copies" / "bank-b.safetensors"
    (tmp_path / "words").write_text(WORDS)
    at = ("--home", home.path)
    words = ("--backup-passphrase-file", tmp_path / "words")
    told = [
        said("--debug", "verify", suspect, *at, "--report", tmp_path / "evidence", "--disclose"),
        said("--debug", "check", *at),
        said("--debug", "backup", *at, "--out", tmp_path / "backup", *words),
        said("--debug", "init", *at, "--registry", url_of(home), code=2),
        said("--debug", "init", "--home", tmp_path / "n", "--registry", url_of(home), code=2),
        repr(home),
        str(vars(home.registry._chain)),
        str(vars(home.registry._chain._database)["_engine"]),
        caplog.text,
    ]
    assert "smdl_registry_1" in caplog.text  # the log is of what was done
    mistakes = (
        url_of(home).replace("+psycopg", "+nonsense"),
        url_of(home).replace("%2F", "/").replace("%3A", ":").replace("%40", "@"),
        url_of(home).replace("%3F", "?"),
        url_of(home).replace(f"{server.port}", "port"),
        url_of(home).replace("127.0.0.1", "no.such.host.invalid"),
        url_of(home)[:-3].replace("//", "/"),
    )
    new = ("--home", tmp_path / "new")
    told += [said("init", *new, "--registry", mistake, code=2) for mistake in mistakes]
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "home.json"]
    assert len(kept) > 10
    for secret in forms(server):
        assert secret not in "".join(told)
        for path in kept:
            assert secret.encode() not in path.read_bytes(), path
    assert forms(server)[1] in (home.path / "home.json").read_text()  # where it must be
    assert (home.path / "home.json").stat().st_mode & 0o077 == 0


# ------------------------------------------------------------------------------------------ backups


def test_a_backup_holds_the_registry_and_goes_into_either_kind_of_database(
    server: Server,
    home: OwnerHome,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)
    issue(home, model, tmp_path / "copies")
    rotation.rotate(home.path, None)
    home = OwnerHome.open(home.path)
    backup.back_up(home.path, None, tmp_path / "backup", WORDS)
    newest = commitments.of_home(home)[-1].digest
    other = server.url(server.new_database())
    for name, url in (("lite", None), ("post", other)):
        done = backup.restore(
            tmp_path / "backup", tmp_path / name, WORDS, registry_url=url, newest=newest
        )
        assert done.home.registry.export() == home.registry.export()
        told = said(
            *("verify", tmp_path / "copies" / "clinic-d.safetensors"),
            *("--home", tmp_path / name, "--json"),
        )
        assert [a["customer"] for a in json.loads(told)["accused"]] == ["clinic-d"]
        done.home.registry.add_customers(["newcomer"])
    # The home was lost, its database was not: entries that came after the backup are still there.
    survived = backup.restore(
        tmp_path / "backup", tmp_path / "third", WORDS, registry_url=other, newest=newest
    )
    assert survived.home.registry.customers()[-1] == "newcomer"


def test_a_database_with_another_log_is_refused_and_left_as_it_is(
    server: Server, home: OwnerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)
    backup.back_up(home.path, None, tmp_path / "backup", WORDS)
    theirs = server.url(server.new_database())
    other = OwnerHome.create(tmp_path / "other", registry_url=theirs)
    other.registry.add_customers(["theirs"])
    with pytest.raises(IntegrityError):
        backup.restore(tmp_path / "backup", tmp_path / "new", WORDS, registry_url=theirs)
    assert not (tmp_path / "new").exists()
    assert other.registry.customers() == ("theirs",)
    execute(server, home, "delete from smdl_registry_1 where number > 2")  # an older state of ours
    with pytest.raises(SmdlError):
        backup.restore(tmp_path / "backup", tmp_path / "new", WORDS, registry_url=url_of(home))
