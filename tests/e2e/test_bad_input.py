"""Whatever is wrong: one clear line, a stable exit code, and nothing changed on disk."""

import hashlib
import json
import os
import pickle  # noqa: TID251 - to make a hostile file
import shutil
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smdl_flower import weights

pytestmark = pytest.mark.e2e

SMOKE = Path(__file__).parents[2] / "scenarios" / "digits-smoke.toml"


def tree(*roots):
    """Return every file below the roots with its content's digest."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for root in roots
        for path in sorted(Path(root).rglob("*"))
        if path.is_file()
    }


def one_line(outcome):
    return outcome.err.strip().count("\n") == 0 and outcome.err.startswith("smdl: ")


def with_header(header, payload=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/smdl-flower-was-here",)


def suspects(copy: Path):
    good = weights.read(copy).weights
    name = next(iter(good))
    ten_gigabytes = {"dtype": "F32", "shape": [2_500_000_000], "data_offsets": [0, 10**10]}
    return {
        "a text file": (b"Dear Sir or Madam, please find the model attached.\n" * 3, 3),
        "an empty file": (b"", 3),
        "truncated": (copy.read_bytes()[:-1000], 3),
        "a pickle": (pickle.dumps(Bomb()), 3),
        "a PyTorch archive": (b"PK\x03\x04" + bytes(1000), 3),
        "a claim of 10 GB in the header": (with_header({"w": ten_gigabytes}, bytes(64)), 3),
        "a header of 10 GB": (struct.pack("<Q", 10**10) + b"{}", 3),
        "NaN": ({**good, name: np.full_like(good[name], np.nan)}, 3),
        "other shapes": ({"hidden.weight": np.eye(30, dtype=np.float32)}, 11),
        "all zero": ({k: np.zeros_like(v) for k, v in good.items()}, 11),
    }


SUSPECTS = (
    *("a text file", "an empty file", "truncated", "a pickle", "a PyTorch archive"),
    *("a claim of 10 GB in the header", "a header of 10 GB", "NaN"),
    *("other shapes", "all zero"),
)


@pytest.mark.parametrize("what", SUSPECTS)
def test_a_suspect_that_cannot_be_examined_is_no_verdict(what, journey, smdl, tmp_path):
    content, code = suspects(journey.copy(1))[what]
    path = tmp_path / "suspect.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        weights.write(path, content)
    before = tree(journey.home, tmp_path)
    outcome = smdl("verify", path, "--home", journey.home, "--report", tmp_path / "evidence")
    assert outcome.code == code
    assert one_line(outcome), outcome.err
    assert tree(journey.home, tmp_path) == before
    assert not Path("/tmp/smdl-flower-was-here").exists()  # noqa: S108


def test_every_kind_of_suspect_above_is_tested(journey):
    assert set(suspects(journey.copy(1))) == set(SUSPECTS)


def test_a_suspect_behind_a_link_or_in_a_folder_is_not_opened(journey, smdl, tmp_path):
    (tmp_path / "link").symlink_to(journey.copy(1))
    for path, code in ((tmp_path / "link", 3), (tmp_path, 3), (tmp_path / "missing", 2)):
        outcome = smdl("verify", path, "--home", journey.home)
        assert outcome.code == code
        assert one_line(outcome)


def test_control_characters_in_a_suspect_do_not_reach_the_terminal(journey, smdl, tmp_path):
    path = tmp_path / "suspect"
    path.write_bytes(with_header({"\x1b[2Jevil": {"dtype": "I8", "shape": [], "data_offsets": []}}))
    outcome = smdl("verify", path, "--home", journey.home)
    assert outcome.code == 3
    assert "\x1b" not in outcome.err
    assert "evil" in outcome.err


def test_unknown_scenario_keys_and_wrong_values_are_all_named(smdl, tmp_path):
    scenario = SMOKE.parent / "digits-smoke.toml"
    outcome = smdl("scenario", "check", scenario, "--set", "sede=3", "--set", "momentum=high")
    assert outcome.code == 2
    assert "sede: unknown key; did you mean seed?" in outcome.err
    assert "momentum: 'high' is not allowed" in outcome.err
    out = tmp_path / "run"
    refused = smdl("simulate", scenario, "--set", "sede=3", "--out", out, "--home", tmp_path / "h")
    assert refused.code == 2
    assert not out.exists()


def test_every_scenario_that_ships_is_in_order(smdl):
    for scenario in sorted(SMOKE.parent.glob("*.toml")):
        extra = ("--set", "data-dir=somewhere") if scenario.stem == "imagefolder" else ()
        assert smdl("scenario", "check", scenario, *extra).code == 0


def test_a_customer_twice_is_refused_and_nobody_is_added(journey, smdl):
    before = tree(journey.home)
    outcome = smdl("customer", "add", "new-one", "customer-01", "--home", journey.home)
    assert outcome.code == 2
    assert one_line(outcome)
    assert tree(journey.home) == before


def test_customers_are_added_from_a_csv_file(smdl, tmp_path):
    smdl("init", "--home", tmp_path / "home")
    table = tmp_path / "customers.csv"
    table.write_text("name,contact\nclinic-a,a@example.org\nbank-b,b@example.org\n")
    assert smdl("customer", "add", "--from-csv", table, "--home", tmp_path / "home").code == 0
    listed = smdl("customer", "list", "--home", tmp_path / "home", "--json")
    assert listed.document["customers"] == ["clinic-a", "bank-b"]
    table.write_text("customer\nx\n")
    outcome = smdl("customer", "add", "--from-csv", table, "--home", tmp_path / "home")
    assert (outcome.code, one_line(outcome)) == (2, True)


def test_customers_get_keys_from_a_file_or_a_federation(smdl, tmp_path):
    home, federation = tmp_path / "home", tmp_path / "federation"
    smdl("init", "--home", home)
    names = ("--participant", "clinic-a", "--participant", "bank-b")
    assert smdl("deploy", "init", federation, "--server", "localhost", *names).code == 0
    public = federation / "owner" / "participants"
    key = ("--public-key", public / "clinic-a.pub", "--home", home)
    assert smdl("customer", "add", "clinic-a", *key).code == 0
    twice = smdl("customer", "add", "c", *key)
    assert (twice.code, one_line(twice)) == (2, True)
    assert "one key, one name" in twice.err
    known = smdl("customer", "add", "--federation", federation, "--home", home)
    assert (known.code, one_line(known)) == (2, True)  # clinic-a is there already: none is added
    assert smdl("customer", "add", "bank-b", "--home", home).code == 0
    given = smdl("customer", "key", "bank-b", "--public-key", public / "bank-b.pub", "--home", home)
    assert given.code == 0
    assert "bank-b: SHA256:" in given.out
    listed = smdl("customer", "list", "--home", home, "--json").document
    assert listed["customers"] == ["clinic-a", "bank-b"]
    assert set(listed["keys"]) == {"clinic-a", "bank-b"}
    shown = smdl("customer", "list", "--home", home).out
    assert f"clinic-a  {listed['keys']['clinic-a']}" in shown

    smdl("init", "--home", tmp_path / "other")
    added = smdl(
        "customer", "add", "--federation", federation, "--home", tmp_path / "other", "--json"
    )
    assert added.document["keys"] == listed["keys"]


def test_a_key_for_several_or_no_customer_and_no_key_are_refused(smdl, tmp_path):
    home = tmp_path / "home"
    smdl("init", "--home", home)
    private = tmp_path / "federation" / "participants" / "a" / "node.key"
    smdl("deploy", "init", tmp_path / "federation", "--server", "localhost", "--participant", "a")
    for arguments in (
        ("add", "x", "y", "--public-key", private),
        ("add", "--public-key", private),
        ("add", "x", "--public-key", private),
        ("add", "x", "--public-key", tmp_path / "absent"),
        ("add", "x", "--public-key", SMOKE),
        ("key", "x", "--public-key", private),
    ):
        outcome = smdl("customer", *arguments, "--home", home)
        assert (outcome.code, one_line(outcome)) == (2, True), arguments
        assert "BEGIN" not in outcome.err
    assert smdl("customer", "list", "--home", home, "--json").document["customers"] == []


def test_a_missing_home_is_said_and_not_created(journey, smdl, tmp_path):
    missing = tmp_path / "nowhere"
    for command in (
        ("verify", journey.copy(1)),
        ("customer", "list"),
        ("customer", "add", "x"),
        ("simulate", SMOKE, "--engine", "inline", "--out", tmp_path / "run"),
    ):
        outcome = smdl(*command, "--home", missing)
        assert outcome.code == 2
        assert one_line(outcome)
        assert "smdl init" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_passphrase_opens_nothing(smdl, tmp_path):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    home = tmp_path / "home"
    assert smdl("init", "--home", home, "--passphrase-file", right).code == 0
    before = tree(home)
    outcome = smdl("customer", "add", "x", "--home", home, "--passphrase-file", wrong)
    assert (outcome.code, one_line(outcome)) == (2, True)
    assert "passphrase" in outcome.err
    assert tree(home) == before
    assert smdl("customer", "add", "x", "--home", home, "--passphrase-file", right).code == 0
    for word in ("correct horse", "battery staple"):
        assert word not in outcome.err


def test_a_second_init_changes_nothing(journey, smdl):
    before = tree(journey.home)
    outcome = smdl("init", "--home", journey.home)
    assert (outcome.code, one_line(outcome)) == (2, True)
    assert tree(journey.home) == before


def test_a_tampered_registry_is_exit_4_and_no_verdict(journey, smdl, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(journey.home, home)
    with sqlite3.connect(home / "registry.db") as database:
        database.execute(
            "UPDATE smdl_registry_1 SET body = replace(body, 'customer-01', 'customer-02') "
            "WHERE kind = 'copy'"
        )
    outcome = smdl("verify", journey.copy(1), "--home", home, "--json")
    assert (outcome.code, outcome.out, one_line(outcome)) == (4, "", True)


def test_results_are_never_overwritten(journey, smdl, tmp_path):
    kept = tmp_path / "kept.safetensors"
    kept.write_bytes(b"somebody's work")
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "verdict.json").write_text("an earlier verdict")
    before = tree(tmp_path, journey.run)
    commands = (
        ("attack", "prune", journey.copy(1), "--out", kept),
        ("verify", journey.copy(1), "--home", journey.home, "--report", tmp_path / "evidence"),
        ("simulate", SMOKE, "--engine", "inline", "--home", journey.home, "--out", journey.run),
    )
    for command in commands:
        outcome = smdl(*command)
        assert (outcome.code, one_line(outcome)) == (2, True)
    assert tree(tmp_path, journey.run) == before


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("verify",),
        ("verify", "x", "--max-false-accusation", "often"),
        ("attack", "prune", "--out", "y"),
        ("simulate", "missing.toml"),
        ("customer", "add"),
    ],
)
def test_wrong_usage_is_exit_2(arguments, smdl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMDL_HOME", str(tmp_path / "home"))
    assert smdl(*arguments).code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_crash_is_exit_1_and_never_reads_as_innocent(journey, smdl, monkeypatch):
    from smdl_flower import verifying  # noqa: PLC0415

    def crash(*_args, **_kwargs):
        raise ZeroDivisionError("unexpected")

    monkeypatch.setattr(verifying, "verify", crash)
    outcome = smdl("verify", journey.copy(1), "--home", journey.home)
    assert (outcome.code, one_line(outcome)) == (1, True)
    assert "internal error" in outcome.err


def test_the_installed_command_is_the_same_program(journey):
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "smdl", "verify", journey.copy(1)),
            *("--home", journey.home, "--json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["accused"][0]["customer"] == "customer-01"


def test_an_output_below_a_file_is_wrong_usage(journey, smdl, tmp_path):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out.safetensors"
    outcome = smdl("attack", "prune", journey.copy(1), "--out", out)
    assert (outcome.code, one_line(outcome)) == (2, True)


def test_debug_shows_where_and_keeps_the_exit_code(journey, smdl, tmp_path):
    outcome = smdl("--debug", "verify", tmp_path / "missing", "--home", journey.home)
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.rstrip().endswith("there is no such file")


def test_an_encrypted_home_is_refused_for_a_run_that_could_not_ask(smdl, tmp_path):
    word = tmp_path / "word"
    word.write_text("correct horse\n")
    home = tmp_path / "home"
    smdl("init", "--home", home, "--passphrase-file", word)
    run = ("simulate", SMOKE, "--engine", "inline", "--home", home, "--out", tmp_path / "run")
    outcome = smdl(*run)
    assert (outcome.code, one_line(outcome)) == (2, True)
    assert "--passphrase-file" in outcome.err
    assert smdl(*run, "--passphrase-file", word, "--set", "num-server-rounds=1").code == 0
    everything = [p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert not any(b"correct horse" in content for content in everything)


def test_a_run_without_customers_is_refused_before_training(smdl, tmp_path):
    smdl("init", "--home", tmp_path / "home")
    outcome = smdl(
        *("simulate", SMOKE, "--engine", "inline", "--home", tmp_path / "home"),
        *("--out", tmp_path / "run", "--set", "demo-customers=0"),
    )
    assert outcome.code == 2
    assert "smdl customer add" in outcome.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
