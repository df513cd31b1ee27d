"""End to end: a copy is served by a process of its own and traced over HTTP by the command line."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smdl_flower import issuing, weights
from smdl_flower.cli.main import run
from smdl_flower.config import FingerprintConfig
from smdl_flower.home import OwnerHome
from smdl_flower.interface.plain import Plain
from smdl_flower.interface.serving import Kind, Served, Telling
from smdl_flower.issuing import FidelityGate, IssueResult
from smdl_flower.weights import Weights
from tests.blackbox.conftest import SPEC, Digits, new_home
from tests.interface.conftest import answer, listening

pytestmark = pytest.mark.e2e

SMDL = [sys.executable, "-c", "from smdl_flower.cli import main; main()"]
QUICK = ("--rate", "1000", "--retries", "0")


@contextmanager
def serving(copy: Path, *options: str) -> Iterator[dict[str, list[str]]]:
    """Serve a copy; gives for each protocol the arguments of verify."""
    command = [*SMDL, "serve", str(copy), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            lines = [process.stdout.readline().split() for _ in range(3)]
            yield {line[-1]: line[2:] for line in lines}
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in (0, 130)


def verify(capsys, home: Path, *arguments) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = run(["verify", "--home", str(home), "--json", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err


@pytest.fixture
def copy_of_b(asked_results: dict[str, IssueResult]) -> Path:
    path = asked_results["bank-b"].path
    assert path
    return path


@pytest.mark.parametrize(
    ("options", "protocols"),
    [
        (("--answers", "labels"), ("smdl", "kserve", "torchserve")),
        (("--answers", "top-k", "--top", "2", "--round", "2"), ("smdl", "torchserve")),
        (("--answers", "probabilities", "--round", "1"), ("smdl", "kserve", "torchserve")),
        (("--answers", "logits"), ("smdl", "kserve", "torchserve")),
    ],
)
def test_a_served_copy_names_its_customer_in_every_protocol(
    asked_copy: OwnerHome, copy_of_b: Path, capsys, options, protocols
):
    with serving(copy_of_b, *options) as predictors:
        assert set(predictors) == {"smdl", "kserve", "torchserve"}
        for protocol in protocols:
            arguments = (*predictors[protocol], *QUICK, "--pool", 1)
            code, verdict, err = verify(capsys, asked_copy.path, *arguments)
            assert code == 0, err
            assert [a["customer"] for a in verdict["accused"]] == ["bank-b"]
            assert verdict["accused"][0]["log10_p"] < -15
            assert verdict["queries"]["probabilities"] == (options[1] != "labels")
            assert verdict["suspect"]["path"] == predictors[protocol][1]


def test_tensors_of_bytes_in_batches_are_the_same_questions(
    asked_copy: OwnerHome, copy_of_b: Path, capsys
):
    with serving(copy_of_b, "--answers", "labels") as predictors:
        how = (*predictors["kserve"], *QUICK, "--pixels", "uint8", "--batch-size", 32)
        code, verdict, err = verify(capsys, asked_copy.path, *how)
    assert code == 0, err
    assert [a["customer"] for a in verdict["accused"]] == ["bank-b"]


def test_the_base_model_and_another_owners_copy_name_nobody(
    asked_copy: OwnerHome,
    taught_base: Weights,
    asked_config: FingerprintConfig,
    digits: Digits,
    tmp_path: Path,
    capsys,
):
    other = new_home(tmp_path / "other", b"another owner")
    gate = FidelityGate(digits.test, 1.0)
    campaign = issuing.open_campaign(other, SPEC, taught_base, asked_config, gate)
    (result,) = issuing.issue(other, campaign, ["bank-a"], tmp_path / "copies")
    assert result.path
    weights.write(tmp_path / "w0.safetensors", taught_base, SPEC.to_metadata())
    for suspect in (tmp_path / "w0.safetensors", result.path):
        with serving(suspect) as predictors:
            for protocol in ("smdl", "kserve"):
                how = (*predictors[protocol], *QUICK)
                code, verdict, err = verify(capsys, asked_copy.path, *how)
                assert code == 10, err
                assert verdict["accused"] == []
                assert verdict["payload"]["best_match"] is None
            if suspect == result.path:  # the control: its own owner does name it
                code, verdict, err = verify(capsys, other.path, *predictors["smdl"], *QUICK)
                assert code == 0, err
                assert [a["customer"] for a in verdict["accused"]] == ["bank-a"]


@contextmanager
def counting(copy: Weights) -> Iterator[tuple[str, list[bytes]]]:
    """Serve a copy in this process and see every question."""
    served = Served(SPEC, copy, Telling(Kind.LABELS))

    def say(handler, _):
        images = Plain().images(server.posted[-1][2], (1, 8, 8))
        answer(json.dumps(Plain().reply(served.answer(images))).encode())(handler, 0)

    with listening(say) as server:
        posted: list[bytes] = []
        yield server.url, posted
        posted += [body for _, _, body in server.posted]


def test_an_examination_that_is_killed_goes_on_and_asks_no_question_twice(
    asked_copy: OwnerHome, asked_copies: dict[str, Weights], capsys
):
    with counting(asked_copies["bank-c"]) as (url, posted):
        arguments = ["verify", "--home", str(asked_copy.path), "--predictor", url, "--rate", "8"]
        with subprocess.Popen([*SMDL, *arguments], stdout=subprocess.DEVNULL) as process:
            assert _until(lambda: _answers(asked_copy.path) >= 5)
            os.kill(process.pid, signal.SIGKILL)
        kept = _answers(asked_copy.path)
        assert 5 <= kept < 60
        code, verdict, err = verify(capsys, asked_copy.path, "--predictor", url, *QUICK)
        assert code == 0, err
        assert [a["customer"] for a in verdict["accused"]] == ["bank-c"]
        assert any(f"{kept} of 64 answers are from" in remark for remark in verdict["remarks"])
        again = verify(capsys, asked_copy.path, "--predictor", url, *QUICK)
        assert again[0] == 0
        assert again[1]["suspect"] == verdict["suspect"]
    assert len(set(posted)) == 64
    assert len(posted) <= 65  # the one whose answer was on its way when the process was killed


def _answers(home: Path) -> int:
    logs = list((home / "asked").glob("*.jsonl"))
    return sum(log.read_bytes().count(b'"answers"') for log in logs)


def _until(true) -> bool:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if true():
                return True
        time.sleep(0.05)
    return False


def test_a_server_that_fails_half_way_loses_nothing_and_a_changed_log_is_refused(
    asked_copy: OwnerHome, asked_copies: dict[str, Weights], capsys
):
    served = Served(SPEC, asked_copies["bank-a"], Telling(Kind.LABELS))
    broken = True

    def say(handler, count):
        if broken and count > 12:
            answer(b'{"labels": [NaN]}')(handler, count)
            return
        images = Plain().images(server.posted[-1][2], (1, 8, 8))
        answer(json.dumps(Plain().reply(served.answer(images))).encode())(handler, count)

    with listening(say) as server:
        code, verdict, err = verify(capsys, asked_copy.path, "--predictor", server.url, *QUICK)
        assert (code, verdict) == (3, {})
        assert err.count("\n") == 1
        assert "12 of 64 answers are kept, ask again to go on" in err
        (log,) = (asked_copy.path / "asked").glob("*.jsonl")
        whole = log.read_bytes()
        log.write_bytes(whole.replace(b'"answers": [[', b'"answers": [[1'))
        code, _, err = verify(capsys, asked_copy.path, "--predictor", server.url, *QUICK)
        assert code == 4
        assert "was changed" in err
        log.write_bytes(whole)
        broken = False
        code, verdict, err = verify(capsys, asked_copy.path, "--predictor", server.url, *QUICK)
        assert code == 0, err
        assert [a["customer"] for a in verdict["accused"]] == ["bank-a"]


def test_credentials_are_sent_and_written_nowhere(
    asked_copy: OwnerHome, asked_copies: dict[str, Weights], tmp_path: Path, capsys
):
    served = Served(SPEC, asked_copies["bank-a"], Telling(Kind.LABELS))

    def say(handler, count):
        if handler.headers["Authorization"] != "Bearer s3cret":
            answer(b"who are you?", 401)(handler, count)
            return
        images = Plain().images(server.posted[-1][2], (1, 8, 8))
        answer(json.dumps(Plain().reply(served.answer(images))).encode())(handler, count)

    secret = tmp_path / "headers"
    secret.touch(mode=0o600)
    secret.write_text("Authorization: Bearer s3cret\n")
    with listening(say) as server:
        how = ("--predictor", server.url, *QUICK)
        code, _, err = verify(capsys, asked_copy.path, *how)
        assert code == 3
        assert "401" in err
        report = tmp_path / "report"
        more = ("--header-file", secret, "--report", report)
        code, verdict, err = verify(capsys, asked_copy.path, *how, *more)
        assert code == 0, err
    written = [*report.iterdir(), *(asked_copy.path / "asked").iterdir()]
    assert len(written) == 3
    for text in (json.dumps(verdict), err, *(path.read_text() for path in written)):
        assert "s3cret" not in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--host", "0.0.0.0"), "--expose"),  # noqa: S104 - refused
        (("--host", "192.0.2.1", "--expose"), "cannot listen"),
        (("--arch", "resnet8"), "do not fit"),
    ],
)
def test_serving_where_others_could_ask_must_be_meant(copy_of_b: Path, capsys, arguments, reason):
    assert run(["serve", str(copy_of_b), "--port", "0", *arguments]) in (2, 3)
    assert reason in capsys.readouterr().err


def test_only_a_safe_file_is_served(tmp_path: Path, capsys):
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x04\x95" + bytes(40))
    assert run(["serve", str(path), "--port", "0"]) == 3
    assert "pickle" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--protocol", "kserve"), ("--rate", "3"), ("--pool", "1"), ("--batch-size", "2")]
)
def test_a_file_is_not_asked(asked_home: OwnerHome, copy_of_b: Path, capsys, option):
    assert verify(capsys, asked_home.path, copy_of_b, *option)[0] == 2
