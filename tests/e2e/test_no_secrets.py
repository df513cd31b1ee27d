"""The search for secrets that follows the end-to-end tests finds what is there, and only that."""

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smdl_flower import weights
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.home import OwnerHome
from tests.e2e.needles import Haystack, Session

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def owner(journey):
    return OwnerHome.open(journey.home)


@pytest.fixture(scope="module")
def hay(owner):
    hay = Haystack()
    hay.add_home(owner)
    return hay


WRITTEN: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda secret: secret,
    "hexadecimal": lambda secret: secret.hex().encode(),
    "capitals": lambda secret: secret.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64 of more": lambda secret: base64.b64encode(b"key=" + secret + b"!"),
    "base64 of much more": lambda secret: base64.urlsafe_b64encode(b"the key " + secret),
    "numbers": lambda secret: json.dumps(list(secret)).encode(),
    "compact numbers": lambda secret: json.dumps(list(secret), separators=(",", ":")).encode(),
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("before", range(9))
def test_a_key_is_found_however_it_is_written_and_wherever_it_starts(hay, owner, form, before):
    model = owner.base_models()[0]
    customer = owner.campaign(model).customer("customer-02")
    for name, secret in (
        ("master key", owner.key.secret),
        ("signing key", owner.key.signing_key().secret),
        ("sealing key", owner.key.sealing_key().secret),
        ("campaign key", owner.campaign(model).secret),
        ("key of customer-02", customer.secret),
    ):
        content = bytes(before) + WRITTEN[form](secret) + b" and so on"
        assert hay.found(content) == {name}


def test_a_base_model_is_found_as_bytes_or_text(hay, owner):
    model = owner.base_models()[0]
    array = next(a for a in model.weights.values() if a.ndim >= 2)
    assert hay.found(b"..." + array.tobytes()) == {"base model"}
    assert hay.found(array.tobytes().hex().encode()) == {"base model"}
    assert hay.found(json.dumps(array.ravel().tolist()).encode()) == {"base model"}


def test_copies_and_noise_are_no_secrets(hay, journey):
    for number in (1, 2, 3):
        assert hay.found(journey.copy(number).read_bytes()) == set()
    assert hay.found(secrets.token_bytes(1 << 20)) == set()
    assert hay.found(b"") == set()


@pytest.fixture
def planted(journey):
    """A session like that of the tests, with a run folder of its own, which is not searched."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(journey.home, Path(place, "home"))
        shutil.copytree(journey.run, Path(place, "run"))
        Path(place, "words").write_text("open sesame\n")  # a passphrase file
        yield Session(folders=[Path(place)], passphrases={"open sesame"})


def test_a_secret_in_any_file_of_a_session_is_found_and_homes_are_left_out(planted, owner):
    found, count = planted.search()
    assert found == {}
    assert (count["homes"], count["files"] > 5) == (1, True)
    run = planted.folders[0] / "run"
    for name, content in {
        "run.json": owner.key.secret.hex().encode(),
        "report.html": b"<p>\n\nopen sesame</p>",
        "engine.log": b"loading " + json.dumps(list(owner.key.secret)).encode(),
        "leak.json": owner.base_models()[0].weights["hidden.weight"].tobytes(),
    }.items():
        (run / name).write_bytes(content)
    weights.write(run / "copies" / "x.safetensors", owner.base_models()[0].weights)
    found, _ = planted.search()
    assert found == {
        str(run / "run.json"): {"master key"},
        str(run / "report.html"): {"passphrase"},
        str(run / "engine.log"): {"master key"},
        str(run / "leak.json"): {"base model"},
        str(run / "copies" / "x.safetensors"): {"base model"},
    }


def test_what_is_printed_or_told_to_a_process_is_searched(planted, owner, smdl, everything):
    planted.shown.append(f"smdl: {owner.key.secret.hex()}")
    found, _ = planted.search()
    assert found == {"shown, or told to a process": {"master key"}}
    smdl("no such command")
    assert "no such command" in everything.shown[-1]
    words = [sys.executable, "-c", "pass", "said-to-a-process"]
    subprocess.run(words, check=True, env={"TOLD": "in-its-environment"})
    assert any("said-to-a-process" in shown for shown in everything.shown)
    assert any("in-its-environment" in shown for shown in everything.shown)


def test_what_children_of_children_are_told_is_searched(planted):
    key = OwnerKey(secrets.token_bytes(32))  # not one of the session's
    planted.keys.append(key)
    inner = f"import time; time.sleep(60) # {key.secret.hex()}"[::-1]
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}[::-1]])"
    with planted.watching(every=0.05), subprocess.Popen([sys.executable, "-c", outer]) as process:
        deadline = time.monotonic() + 60
        while key.secret.hex() not in str(planted.shown) and time.monotonic() < deadline:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in children:
            os.kill(int(pid), signal.SIGKILL)
    found, _ = planted.search()
    assert found == {"shown, or told to a process": {"master key"}}


def test_constant_tensors_give_no_needles(owner):
    hay = Haystack()
    constant = {"w": np.zeros((9, 9), np.float32), "v": np.ones((9, 9), np.float32)}
    hay.add_model(replace(owner.base_models()[0], weights=constant))
    assert hay.needles == {}
