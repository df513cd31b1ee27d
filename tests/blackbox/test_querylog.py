"""The query log: nothing that was said is lost or asked for again, and no other log is believed."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.blackbox import asking
from smdl_flower.blackbox.querylog import Subject, opened
from smdl_flower.errors import ConfigError, IntegrityError, SuspectAnswersError
from smdl_flower.fingerprint.keys import OwnerKey

KEY = OwnerKey(bytes(32))
SUBJECT = Subject("0123456789abcdef", 1, "ab" * 32, 4, "https://example.org/ask", "smdl")
IMAGES = np.zeros((40, 1, 8, 8), np.uint8)
IMAGES[:, 0, 0, 0] = np.arange(40)


def number_of(images):
    return images[:, 0, 0, 0] % 4


def scores_of(images):
    return np.random.default_rng(1).dirichlet(np.ones(4), 40)[images[:, 0, 0, 0]]


class Failing:
    """Answers some questions, then fails; remembers which it was asked."""

    def __init__(self, say, good):
        self.say = say
        self.good = good
        self.seen: list[int] = []

    def __call__(self, images):
        if len(self.seen) >= self.good:
            raise OSError("gone")
        self.seen += images[:, 0, 0, 0].tolist()
        return self.say(images)


def ask(log, predictor, batch=1):
    return asking.ask(predictor, IMAGES, 4, batch=batch, log=log)


@pytest.mark.parametrize("say", [number_of, scores_of])
@pytest.mark.parametrize("batch", [1, 7])
def test_an_examination_goes_on_where_it_stopped_and_asks_nothing_twice(tmp_path, say, batch):
    first, second = Failing(say, 10), Failing(say, 1000)
    with opened(tmp_path, KEY, SUBJECT) as log, pytest.raises(SuspectAnswersError, match="gone"):
        ask(log, first, batch)
    with opened(tmp_path, KEY, SUBJECT) as log:
        assert log.kept == len(first.seen) >= 10
        answers = ask(log, second, batch)
    assert sorted(first.seen + second.seen) == list(range(40))
    with opened(tmp_path, KEY, SUBJECT) as log:
        again = ask(log, Failing(say, 0))
    assert answers.digest() == again.digest() == asking.ask(say, IMAGES, 4).digest()


def test_of_two_answers_the_first_counts(tmp_path):
    """A server that says something else each time says it once."""
    rng = np.random.default_rng(3)
    with opened(tmp_path, KEY, SUBJECT) as log:
        said = ask(log, lambda x: rng.integers(0, 4, len(x)))
        again = ask(log, lambda x: rng.integers(0, 4, len(x)))
    assert said.digest() == again.digest()


def test_a_log_of_labels_takes_no_scores(tmp_path):
    with opened(tmp_path, KEY, SUBJECT) as log, pytest.raises(SuspectAnswersError):
        ask(log, Failing(number_of, 3))
    with (
        opened(tmp_path, KEY, SUBJECT) as log,
        pytest.raises(SuspectAnswersError, match="some batches"),
    ):
        ask(log, scores_of)
    with opened(tmp_path, KEY, SUBJECT) as log:
        assert log.kept == 3


ANSWERING = """
import dataclasses, json, pathlib, signal, sys
from smdl_flower.blackbox.querylog import Subject, opened
from smdl_flower.fingerprint.keys import OwnerKey

subject = Subject(**json.loads(sys.argv[2]))
with opened(pathlib.Path(sys.argv[1]), OwnerKey(bytes(32)), subject) as log:
    log.append({3: 1})
    log.append({4: 2})
    print("ready", flush=True)
    signal.pause()
"""


def test_what_was_kept_survives_a_killed_process(tmp_path):
    arguments = [str(tmp_path), json.dumps(dataclasses.asdict(SUBJECT))]
    command = [sys.executable, "-c", ANSWERING, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(ConfigError, match="another process"), opened(tmp_path, KEY, SUBJECT):
            pass
        process.kill()
    with opened(tmp_path, KEY, SUBJECT) as log:
        assert log.rows == {3: 1, 4: 2}


def filled(folder, key=KEY, subject=SUBJECT):
    with opened(folder, key, subject) as log:
        for number in range(4):
            log.append({number: number % 4})
        return log.path


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_line_cut_off_by_a_crash_is_asked_for_again(tmp_path, cut):
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    with opened(tmp_path, KEY, SUBJECT) as log:
        assert log.rows == {0: 0, 1: 1, 2: 2}
        log.append({3: 1})
    with opened(tmp_path, KEY, SUBJECT) as log:
        assert log.rows == {0: 0, 1: 1, 2: 2, 3: 1}


def test_a_log_is_private_and_holds_no_image_and_its_name_no_suspect(tmp_path):
    path = filled(tmp_path / "asked")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert "example" not in path.name
    header = json.loads(path.read_text().splitlines()[0])["entry"]
    assert header["format"] == "smdl-query-log/1"
    assert header["of"] == dataclasses.asdict(SUBJECT)


@pytest.mark.parametrize("line", range(5))
@pytest.mark.parametrize("change", ["flip", "drop", "swap", "repeat"])
def test_a_log_that_was_changed_is_refused(tmp_path, line, change):
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "flip":
        lines[line] = lines[line].replace(b'"at": "2', b'"at": "3')
    elif change == "drop":
        del lines[line]
    elif change == "swap":
        lines[line], lines[line - 1] = lines[line - 1], lines[line]
    else:
        lines.insert(line, lines[line])
    path.write_bytes(b"".join(lines))
    if change == "drop" and line == 4:  # the end is asked for again: nothing is believed
        with opened(tmp_path, KEY, SUBJECT) as log:
            assert log.rows == {0: 0, 1: 1, 2: 2}
        return
    with pytest.raises(IntegrityError) as caught, opened(tmp_path, KEY, SUBJECT):
        pass
    assert caught.value.exit_code == 4


@given(st.binary(max_size=80))
def test_any_bytes_in_its_place_are_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("log")
    path = filled(folder)
    path.write_bytes(content + b"\n")
    with pytest.raises(IntegrityError), opened(folder, KEY, SUBJECT):
        pass


@pytest.mark.parametrize(
    "other",
    [
        {"model_id": "f" * 16},
        {"pool": 2},
        {"images_sha256": "cd" * 32},
        {"classes": 5},
        {"suspect": "https://example.com/ask"},
        {"approach": "kserve"},
    ],
)
def test_a_log_of_anything_else_is_refused(tmp_path, other):
    changed = dataclasses.replace(SUBJECT, **other)
    filled(tmp_path).rename(tmp_path / changed.file_name())
    refused = pytest.raises(ConfigError, match="another suspect, pool or model")
    with refused, opened(tmp_path, KEY, changed):
        pass
    with opened(tmp_path, KEY, SUBJECT) as log:  # its own name is free: it begins anew
        assert log.rows == {}


def test_a_log_of_another_owner_is_refused(tmp_path):
    filled(tmp_path, OwnerKey(b"another".ljust(32)))
    with pytest.raises(IntegrityError, match="another owner"), opened(tmp_path, KEY, SUBJECT):
        pass
