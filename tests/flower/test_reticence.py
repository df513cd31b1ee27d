"""What fails at a participant is said in full there, and by a code to everybody else."""

import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

import client_app.app
from smdl_flower import config
from smdl_flower.errors import BudgetExhaustedError, ConfigError, DataError, PrivacyError, SmdlError
from smdl_flower.flower import inline, reticence

PRIVATE = "/mnt/oncology/miller-johanna-1961.png"

ERRORS = {
    "data": DataError(f"{PRIVATE}: not a readable image"),
    "config": ConfigError(f"ledger-dir {PRIVATE}"),
    "privacy": PrivacyError(f"{PRIVATE}: damaged"),
    "budget": BudgetExhaustedError(f"{PRIVATE} has spent 7.3"),
    "refused": SmdlError(PRIVATE),
    "memory": MemoryError(PRIVATE),
    "internal": FileNotFoundError(2, "No such file", PRIVATE),
}


def answer_of(app) -> Message:
    grid = inline.InlineGrid(app, 1, config.load_defaults(config.example_app_dir()))
    (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), "train", 1, "1")])
    return reply


def everything_in(reply: Message) -> str:
    return f"{reply!r} {reply.error!r} {reply.metadata!r} {reply.__dict__!r}"


def raising(error, *mods) -> ClientApp:
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        try:
            raise ValueError(f"cause: {PRIVATE}")
        except ValueError:
            raise error from None

    return app


@pytest.mark.parametrize("code", ERRORS)
def test_the_server_is_told_a_code_and_the_institution_everything(code, caplog):
    reply = answer_of(raising(ERRORS[code], reticence.keep_to_itself))
    assert reply.has_error()
    assert reply.error.reason == code
    assert "miller" not in everything_in(reply)
    assert PRIVATE in caplog.text
    assert ("Traceback" in caplog.text) == (code in ("memory", "internal"))


def test_a_file_may_be_named_for_it_too(tmp_path, monkeypatch):
    place = tmp_path / "participants.log"
    monkeypatch.setenv(reticence.LOG_VARIABLE, str(place))
    answer_of(raising(ERRORS["data"], reticence.keep_to_itself))
    assert PRIVATE in place.read_text()
    assert place.stat().st_mode & 0o077 == 0


def test_the_control_without_it_the_path_leaves(caplog):
    reply = answer_of(raising(ERRORS["data"]))
    assert PRIVATE in str(reply.error.reason)


def test_an_answer_passes_as_it_is():
    app = ClientApp(mods=[reticence.keep_to_itself])

    @app.train()
    def train(message, context):
        return Message(RecordDict(), reply_to=message)

    assert answer_of(app).has_content()


@pytest.mark.parametrize("what", ["images", "ledger", "internal"])
def test_our_own_client_app_keeps_paths_to_itself(what, tmp_path, monkeypatch, caplog):
    secret = tmp_path / "miller-johanna"
    flat = config.load_defaults(config.example_app_dir())
    node = {"data-dir": str(secret)}
    if what == "internal":
        monkeypatch.setattr(client_app.app, "_images", lambda *_: open(secret))  # noqa: PTH123,SIM115,RUF100
    if what == "ledger":
        secret.write_text("no folder")
    grid = inline.InlineGrid(client_app.app.app, 1, flat, [node])
    message = grid.create_message(RecordDict(), "train", 1, "1")
    (reply,) = grid.send_and_receive([message])
    assert reply.has_error()
    assert "miller" not in everything_in(reply)


def test_a_kind_of_message_that_nobody_answers_says_nothing_private():
    """Flower raises before any mod; its text is its own."""
    grid = inline.InlineGrid(client_app.app.app, 1, {}, [{"data-dir": PRIVATE}])
    (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), "query", 1, "1")])
    assert reply.has_error()
    assert "miller" not in everything_in(reply)
