"""The zoo of hostile files from the command line: exit code 3, one line, little memory and time."""

import contextlib
import os
import re
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.suspects.conftest import Net
from tests.suspects.test_reading import KINDS, zoo

pytestmark = pytest.mark.e2e

MEMORY = 512 << 20  # bytes of the process that reads, Python and numpy included
SECONDS = 20  # of processor time


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    return zoo(tmp_path_factory.mktemp("zoo"), dict(Net().state_dict()))


def processor_time() -> float:
    """Of all children so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def peaks() -> Iterator[list[int]]:
    """The most memory that each child has had when it was looked at, every few milliseconds.

    Not ``ru_maxrss``: that is of this large process, until the child has become another program.
    """
    done, seen = threading.Event(), list[int]()
    own = Path("/proc/self/cmdline").read_bytes()

    def look() -> None:
        while not done.wait(0.003):
            for task in Path("/proc/self/task").iterdir():
                with contextlib.suppress(OSError, AttributeError):  # it ended
                    for pid in (task / "children").read_text().split():
                        status = Path(f"/proc/{pid}/status").read_text()
                        if Path(f"/proc/{pid}/cmdline").read_bytes() not in (own, b""):
                            found = re.search(r"VmHWM:\s+(\d+) kB", status)
                            seen.append(1024 * int(found[1]))  # type: ignore[index]

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_file_is_no_verdict_and_costs_little(kind, animals, journey, smdl, tmp_path):
    content, said = animals[kind]
    path = tmp_path / "suspect"
    path.write_bytes(content)
    before = processor_time()
    with peaks() as memory:
        outcome = smdl("verify", path, "--home", journey.home)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (3, "", 1)
    assert said in outcome.err
    assert processor_time() - before < SECONDS
    assert max(memory, default=0) < MEMORY
    assert memory or kind == "nothing"  # it was looked at
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["pipe", "device", "loop of links", "folder that holds itself"])
def test_what_is_no_file_is_no_verdict_at_once(kind, journey, smdl, tmp_path):
    path = tmp_path / "suspect"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = type(path)("/dev/zero")
        case "loop of links":
            path.symlink_to(tmp_path / "other")
            (tmp_path / "other").symlink_to(path)
        case _:
            path.mkdir()
            (path / "model.safetensors").symlink_to(path)
    begun = time.monotonic()
    outcome = smdl("verify", path, "--home", journey.home)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (3, "", 1)
    assert time.monotonic() - begun < SECONDS
