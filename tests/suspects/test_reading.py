"""A suspect is converted by a process that has limits, knows nothing, and can break nothing."""

import copy
import hashlib
import os
import pickle  # noqa: TID251 - to make hostile files
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from smdl_flower import weights
from smdl_flower.errors import MissingFileError, SuspectFileError
from smdl_flower.suspects import child, converting, reading
from smdl_flower.weights import Limits
from tests.suspects.conftest import rezipped, same


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def test_a_file_is_told_by_its_content(tmp_path, state):
    path = tmp_path / "model.safetensors"
    torch.save(state, path)
    model = reading.read(path)
    assert same(model.weights, state)
    assert model.kind == "PyTorch"
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    safetensors.torch.save_file(state, path)
    model = reading.read(path)
    assert same(model.weights, state)
    assert (model.kind, model.remarks) == ("safetensors", ())


def test_plain_safetensors_start_no_process(tmp_path, state, monkeypatch):
    safetensors.torch.save_file(state, tmp_path / "m")
    monkeypatch.setattr(reading, "_run", lambda *_: pytest.fail("a process was started"))
    assert same(reading.read(tmp_path / "m").weights, state)


def test_remarks_come_back(tmp_path, state):
    torch.save({"model": state, "ema": state, "note": Bomb(tmp_path / "canary")}, tmp_path / "m")
    model = reading.read(tmp_path / "m")
    assert "'ema'" in model.remarks[0]
    assert "'posix.system'" in model.remarks[1]
    assert not (tmp_path / "canary").exists()


# ------------------------------------------------------------------------------- the hostile zoo


def text_with(header: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + payload


def a_zip(entries: dict[str, bytes], path: Path, method: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path.read_bytes()


def overlapping(path: Path) -> bytes:
    """An archive of 500 entries that are one and the same megabyte of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", bytes(1 << 20))
        for number in range(1, 500):
            entry = copy.copy(archive.filelist[0])
            entry.filename = entry.orig_filename = f"a/data/{number}"
            archive.filelist.append(entry)
        archive.writestr("a/data.pkl", b"\x80\x02].")
    return path.read_bytes()


def zoo(where: Path, state: dict[str, torch.Tensor]) -> dict[str, tuple[bytes, str]]:
    """Hostile files, and a part of what is said of each."""
    bomb = pickle.dumps({"w": Bomb(where / "canary")})
    good = where / "good"
    torch.save(state, good)
    content = good.read_bytes()
    stored = where / "z"
    gigabytes = b"\0" * (64 << 20)
    torch.save({"w": torch.zeros(1).as_strided((2_000_000, 2_000_000), (0, 0))}, where / "stride")
    torch.save({"w": torch.tensor([float("nan")] * 3)}, where / "nan")
    torch.save({"w": torch.tensor([1e300], dtype=torch.float64)}, where / "large")
    torch.save(state, where / "legacy", _use_new_zipfile_serialization=False)
    cyclic = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."
    laughs = b"\x80\x02]" + b"(22222222t" * 200 + b"."
    deep = b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."
    return {
        "nothing": (b"", "empty file"),
        "text": (b"Dear Sir or Madam,\n" * 10, "unknown, it begins with"),
        "a pickle that runs a command": (bomb, "would call 'posix.system'"),
        "an archive with such a pickle": (
            a_zip({"a/data.pkl": bomb, "a/version": b"3"}, stored),
            "would call 'posix.system'",
        ),
        "strides": ((where / "stride").read_bytes(), "claims 4,000,000,000,000 values"),
        "a zip bomb": (
            a_zip({"a/data.pkl": gigabytes}, stored, zipfile.ZIP_DEFLATED),
            "claims to inflate",
        ),
        "entries that overlap": (overlapping(stored), "no tensor"),
        "an archive in an archive": (
            a_zip({"a/data.pkl": a_zip({"a/data.pkl": gigabytes}, stored)}, stored),
            "damaged pickle",
        ),
        "a name outside": (
            rezipped(content, stored, {"version": b"3"}).replace(b"good/version", b"../../../abc"),
            "leaves its directory",
        ),
        "a cut archive": (content[:-100], "archive"),
        "a cut legacy file": ((where / "legacy").read_bytes()[:-100], "truncated"),
        "not a number": ((where / "nan").read_bytes(), "3 values that are NaN"),
        "a number too large": ((where / "large").read_bytes(), "1 values that are NaN, infinite"),
        "a dict in itself": (a_zip({"a/data.pkl": cyclic}, stored), "no tensor"),
        "a billion laughs": (a_zip({"a/data.pkl": laughs}, stored), "no tensor"),
        "too deep": (a_zip({"a/data.pkl": deep}, stored), "nested too deeply"),
        "a huge memo": (a_zip({"a/data.pkl": b"\x80\x02Nr\xff\xff\xff\xff."}, stored), "no tensor"),
        "a directory that claims": (
            b"PK\x03\x04"
            + b"PK\x05\x06"
            + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 2**31, 0, 0),
            "damaged archive",
        ),
        "another archive": (a_zip({"word/document.xml": b"<x/>"}, stored), "of something else"),
        "a header that claims": (
            text_with(b'{"w":{"dtype":"I8","shape":[4000000000],"data_offsets":[0,4]}}', b"1234"),
            "claims 4,000,000,000 values in a storage of 4 bytes",
        ),
    }


KINDS = (
    *(
        "nothing",
        "text",
        "a pickle that runs a command",
        "an archive with such a pickle",
        "strides",
    ),
    *("a zip bomb", "a name outside", "a cut archive", "a cut legacy file", "not a number"),
    *("a number too large", "a dict in itself", "a billion laughs", "too deep", "a huge memo"),
    *("a directory that claims", "another archive", "a header that claims"),
    *("entries that overlap", "an archive in an archive"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files_are_refused_in_one_line_and_nothing_is_executed(kind, tmp_path, state):
    content, said = zoo(tmp_path, state)[kind]
    (tmp_path / "canary").unlink(missing_ok=True)
    path = tmp_path / "suspect"
    path.write_bytes(content)
    before = set(tmp_path.iterdir())
    with pytest.raises(SuspectFileError) as caught:
        reading.read(path)
    message = str(caught.value)
    assert said in message
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 2500
    assert set(tmp_path.iterdir()) == before


def test_all_of_the_zoo_is_tested(tmp_path, state):
    assert set(zoo(tmp_path, state)) == set(KINDS)


def test_the_zoos_pickle_does_run_if_it_is_unpickled(tmp_path, state):
    pickle.loads(zoo(tmp_path, state)["a pickle that runs a command"][0])  # noqa: S301 - made here
    assert (tmp_path / "canary").exists()


def test_links_pipes_and_missing_files_are_not_opened(tmp_path, state):
    torch.save(state, tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    (tmp_path / "folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe"):
        with pytest.raises(SuspectFileError):
            reading.read(tmp_path / name)
    with pytest.raises(MissingFileError):
        reading.read(tmp_path / "missing")


def test_the_smallest_numbers_are_read_as_they_are(tmp_path):
    """Denormal ones, of which a processor may make zeros."""
    smallest = torch.tensor([1e-45, -1e-45, 1.1754942e-38], dtype=torch.float32)
    halves = torch.tensor([6e-8, -6e-8], dtype=torch.float16)
    torch.save({"w": smallest, "h": halves}, tmp_path / "m")
    found = reading.read(tmp_path / "m").weights
    assert found["w"].tobytes() == smallest.numpy().tobytes()
    assert (found["h"] == halves.float().numpy()).all()
    assert (found["h"] != 0).all()


def test_a_file_over_the_limit_is_not_read(tmp_path, state):
    torch.save(state, tmp_path / "m")
    with pytest.raises(SuspectFileError, match="at most 1,000 are examined"):
        reading.read(tmp_path / "m", Limits(file_bytes=1000))


def test_control_characters_of_a_file_are_not_repeated(tmp_path):
    torch.save({"\x1b[2Jevil" * 9: torch.tensor(float("nan"))}, tmp_path / "m")
    with pytest.raises(SuspectFileError) as caught:
        reading.read(tmp_path / "m")
    assert str(caught.value).isprintable()


# -------------------------------------------------------------------------------------- the child


def test_the_child_has_no_environment_and_no_path_of_the_owner(tmp_path, monkeypatch, state):
    """What the child could see, written out by a child that looks instead of converting."""
    torch.save(state, tmp_path / "m")
    monkeypatch.setenv("SMDL_PASSPHRASE", "a secret")
    monkeypatch.setattr(
        reading,
        "_START",
        "import os, sys, resource; from pathlib import Path; "
        "fds = [n for n in map(int, os.listdir('/proc/self/fd')) if n > 2]; "
        "Path('refused').write_text(repr((dict(os.environ), os.getcwd(), os.listdir(), "
        "fds))); sys.exit(3)",
    )
    with pytest.raises(SuspectFileError) as caught:
        reading.read(tmp_path / "m")
    environment, where, names, descriptors = eval(  # noqa: S307 - written by the line above
        str(caught.value).partition(": ")[2]
    )
    assert set(environment) <= {"OPENBLAS_NUM_THREADS", "LC_CTYPE"}
    assert "smdl-suspect-" in where
    assert names == ["0"]
    assert descriptors == [3]  # of the listing itself
    assert not Path(where).exists()


def run_in_child(monkeypatch, tmp_path, code: str) -> SuspectFileError:
    """The error if, instead of converting, the child runs some code."""
    (tmp_path / "m").write_bytes(b"PK\x03\x04")
    monkeypatch.setattr(
        reading,
        "_START",
        "import sys; sys.path.insert(0, sys.argv[1]); from smdl_flower.suspects import child; "
        f"child.convert = lambda *_: {code}; child.main()",
    )
    with pytest.raises(SuspectFileError) as caught:
        reading.read(tmp_path / "m")
    return caught.value


def test_memory_is_limited(monkeypatch, tmp_path):
    assert "more memory" in str(run_in_child(monkeypatch, tmp_path, "bytearray(8 << 30)"))


def test_the_size_of_the_output_is_limited(monkeypatch, tmp_path):
    code = "open('weights.safetensors', 'wb').truncate(1 << 30)"
    with pytest.raises(RuntimeError, match="ended with code"):  # an OSError is a crash of the child
        run_in_child(monkeypatch, tmp_path, code)


def test_processor_time_is_limited(monkeypatch, tmp_path):
    monkeypatch.setattr(child, "_SECONDS", 0)
    code = (
        "[child.resource.setrlimit(child.resource.RLIMIT_CPU, (1, 1))] + [0 for _ in iter(int, 1)]"
    )
    assert "more time" in str(run_in_child(monkeypatch, tmp_path, code))


def test_waiting_is_limited(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "_WAIT", -59)
    assert "too long" in str(run_in_child(monkeypatch, tmp_path, "__import__('time').sleep(60)"))


def test_a_crash_of_the_child_is_no_refusal(monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match="ended with code 1"):
        run_in_child(monkeypatch, tmp_path, "1 / 0")


def test_what_the_child_writes_is_checked_like_any_file(monkeypatch, tmp_path):
    code = "open('weights.safetensors', 'wb').write(b'nonsense') and sys.exit(0)"
    assert "not a safetensors file" in str(run_in_child(monkeypatch, tmp_path, code))


def test_output_larger_than_the_room_is_refused_before_it_is_made(tmp_path, state):
    torch.save(state, tmp_path / "m")
    content = memoryview((tmp_path / "m").read_bytes())
    size = sum(t.numel() * 4 for t in state.values())
    assert converting.convert([content], size).weights
    with pytest.raises(SuspectFileError, match="as float32"):
        converting.convert([content], size - 1)


def test_the_childs_file_is_one_that_weights_reads(tmp_path, state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    child._write(converting.Converted(arrays | {"s": np.float32(2).reshape(())}, "kind", ("é",)))
    file = weights.read(tmp_path / child.OUTPUT)
    assert same({n: a for n, a in file.weights.items() if n != "s"}, state)
    assert file.weights["s"].shape == ()
    assert file.metadata["kind"] == "kind"
