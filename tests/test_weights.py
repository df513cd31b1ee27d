"""The only reader of suspect files: whatever the bytes, our own error or finite float32 arrays."""

import contextlib
import hashlib
import json
import math
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smdl_flower import weights
from smdl_flower.errors import MissingFileError, OutputExistsError, SuspectFileError
from smdl_flower.weights import Limits, ModelFile

VALID = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.array([0.5, -0.5], np.float32),
}
VALID_BYTES = safetensors.numpy.save(VALID, {"model": "example"})
HEADER_END = 8 + int.from_bytes(VALID_BYTES[:8], "little")
PICKLES = [bytes([0x80, protocol]) + b"cposix\nsystem\nq\x00." for protocol in (2, 3, 4, 5)]


def pack(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: object, shape: object, start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def one_tensor(dtype: str, values: bytes, count: int) -> bytes:
    return pack({"w": tensor(dtype, [count], 0, len(values))}, values)


def snapshot(directory: Path) -> list[tuple[str, int, int, int, bytes]]:
    found = []
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found.append((str(path), status.st_mode, status.st_size, status.st_mtime_ns, content))
    return found


@contextlib.contextmanager
def nothing_changes_in(directory: Path) -> Iterator[None]:
    before = snapshot(directory)
    yield
    assert snapshot(directory) == before


def refusal(path: Path, limits: Limits | None = None) -> str:
    with nothing_changes_in(path.parent), pytest.raises(SuspectFileError) as caught:
        weights.read(path, limits)
    return str(caught.value)


def refusal_of(tmp_path: Path, content: bytes, limits: Limits | None = None) -> str:
    path = tmp_path / "suspect.safetensors"
    path.write_bytes(content)
    return refusal(path, limits)


# ------------------------------------------------------------------------------------ valid files


finite = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
some_weights = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda n: n != "__metadata__"),
    finite,
    min_size=1,
    max_size=4,
)
some_metadata = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.text(st.characters(codec="utf-8"), max_size=8),
    max_size=3,
)


@given(written=some_weights, metadata=some_metadata)
def test_what_is_written_is_read_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory,
    written: dict[str, np.ndarray[Any, Any]],
    metadata: dict[str, str],
) -> None:
    path = tmp_path_factory.mktemp("round") / "model.safetensors"
    weights.write(path, written, metadata)
    back = weights.read(path)
    assert back.weights.keys() == written.keys()
    for name, array in written.items():
        assert back.weights[name].shape == array.shape
        assert back.weights[name].tobytes() == array.tobytes()
    assert back.metadata == metadata
    assert back.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.digest(back.weights) == weights.digest(written)


def test_the_safetensors_library_reads_the_same_from_a_written_file(tmp_path: Path) -> None:
    strided = np.arange(24, dtype=np.float32).reshape(4, 6).T[::2]
    weights.write(tmp_path / "m", {**VALID, "strided": strided}, {"k": "v"})
    theirs = safetensors.numpy.load_file(tmp_path / "m")
    assert theirs.keys() == {*VALID, "strided"}
    np.testing.assert_array_equal(theirs["strided"], strided)
    np.testing.assert_array_equal(theirs["a.weight"], VALID["a.weight"])


def test_a_written_file_is_private_and_never_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "copy.safetensors"
    weights.write(path, VALID)
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OutputExistsError):
        weights.write(path, {"other": np.ones(1, np.float32)})
    assert path.read_bytes() == before
    weights.write(path, {"other": np.ones(1, np.float32)}, replace=True)
    assert list(weights.read(path).weights) == ["other"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_floating_type_is_converted_as_torch_does(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)).mul(100).to(dtype)
    values[0, :4] = torch.tensor([0.0, -0.0, 6e-8, -1e-40], dtype=dtype)
    (tmp_path / "m").write_bytes(safetensors.torch.save({"w": values}))
    read = weights.read(tmp_path / "m").weights["w"]
    assert read.dtype == np.float32
    assert read.tobytes() == values.float().numpy().tobytes()


def test_a_file_with_no_tensor_at_all_is_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(pack({}))
    assert weights.read(tmp_path / "m").weights == {}


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x10280])
def test_a_header_length_that_looks_like_a_pickle_is_no_pickle(tmp_path: Path, length: int) -> None:
    array = {"w": np.ones(1, np.float32)}
    path = tmp_path / "m"
    weights.write(path, array, {"pad": ""}, replace=True)
    empty = len(path.read_bytes()[8:-4].rstrip())
    weights.write(path, array, {"pad": "x" * (length - empty)}, replace=True)
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    assert weights.read(path).weights["w"].tolist() == [1.0]


def test_a_scalar_keeps_its_shape(tmp_path: Path) -> None:
    weights.write(tmp_path / "m", {"scale": np.array(2.0, np.float32)})
    assert weights.read(tmp_path / "m").weights["scale"].shape == ()


def test_no_tensor_and_no_metadata_are_written_readably(tmp_path: Path) -> None:
    weights.write(tmp_path / "m", {}, {})
    assert weights.read(tmp_path / "m").weights == {}


# ------------------------------------------------------------------------------- the hostile zoo


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 7, b"\0" * 8, b"Dear sir or madam,\n" * 40])
def test_empty_and_text_files_are_refused(tmp_path: Path, content: bytes) -> None:
    assert "not" in refusal_of(tmp_path, content)


@pytest.mark.parametrize("content", PICKLES, ids=lambda content: f"protocol-{content[1]}")
def test_a_pickle_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    assert "pickle" in refusal_of(tmp_path, content)


def test_a_pytorch_archive_is_refused_by_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "suspect.pt", "w") as archive:
        archive.writestr("archive/data.pkl", PICKLES[0])
    assert "convert it to safetensors" in refusal(tmp_path / "suspect.pt")


def test_a_valid_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for length in range(len(VALID_BYTES)):
        assert "suspect.safetensors" in refusal_of(tmp_path, VALID_BYTES[:length])


def test_a_valid_file_with_bytes_behind_it_is_refused(tmp_path: Path) -> None:
    assert "not a valid safetensors" in refusal_of(tmp_path, VALID_BYTES + b"\0")


@pytest.mark.parametrize("claim", [10 * 2**30, 2**63, 2**64 - 1, len(VALID_BYTES) - 7])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, claim: int) -> None:
    content = struct.pack("<Q", claim) + VALID_BYTES[8:]
    assert f"header claims {claim:,}" in refusal_of(tmp_path, content)


@pytest.mark.parametrize(
    "shape", [[10 * 2**28], [2**14, 2**14, 10], [2**64], [2**32, 2**32], [10**300, 3]]
)
def test_a_tensor_larger_than_the_file_is_refused_before_it_is_allocated(
    tmp_path: Path, shape: list[int]
) -> None:
    content = pack({"w": tensor("F32", shape, 0, 4 * math.prod(shape))}, b"\0" * 16)
    assert "claims" in refusal_of(tmp_path, content)
    content = pack({"w": tensor("F32", shape, 0, 16)}, b"\0" * 16)
    assert "the file holds 16" in refusal_of(tmp_path, content)


@pytest.mark.parametrize(
    "offsets",
    [
        ((0, 8), (4, 12)),
        ((0, 8), (0, 8)),
        ((0, 8), (12, 20)),
        ((8, 0), (8, 16)),
        ((0, 8), (8, 2**64)),
        ((-8, 0), (0, 8)),
    ],
    ids=["overlap", "same", "gap", "backwards", "beyond", "before"],
)
def test_offsets_that_do_not_tile_the_file_are_refused(
    tmp_path: Path, offsets: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    header = {name: tensor("F32", [2], *span) for name, span in zip("ab", offsets, strict=True)}
    assert "not a valid safetensors" in refusal_of(tmp_path, pack(header, b"\0" * 16))


@pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "I64", "BOOL", "F8_E4M3", "C64", "", "f32"])
def test_a_tensor_that_is_not_floating_point_is_refused_by_name(tmp_path: Path, dtype: str) -> None:
    header = {"a": tensor("F32", [1], 0, 4), "steps": tensor(dtype, [1], 4, 12)}
    message = refusal_of(tmp_path, pack(header, b"\0" * 12))
    assert f"tensor 'steps' has type '{dtype}'" in message


@pytest.mark.parametrize("shape", [None, 3, "2", [2.0], [True, 2], [-2], ["2"], [[2]], {"0": 2}])
def test_a_shape_that_is_no_list_of_sizes_is_refused(tmp_path: Path, shape: object) -> None:
    content = pack({"w": tensor("F32", shape, 0, 8)}, b"\0" * 8)
    assert "no valid shape" in refusal_of(tmp_path, content)


@pytest.mark.parametrize("entry", [None, 1, "F32", [], {}, {"shape": [1]}, {"dtype": None}])
def test_an_entry_that_describes_no_tensor_is_refused(tmp_path: Path, entry: object) -> None:
    assert "tensor 'w' has type" in refusal_of(tmp_path, pack({"w": entry}))


@pytest.mark.parametrize(
    "metadata", [None, [], "text", 3, {"a": 1}, {"a": None}, {"a": {"b": "c"}}]
)
def test_metadata_that_is_not_text_to_text_is_refused(tmp_path: Path, metadata: object) -> None:
    content = pack({"__metadata__": metadata, "w": tensor("F32", [1], 0, 4)}, b"\0" * 4)
    assert "not a valid safetensors" in refusal_of(tmp_path, content)


@pytest.mark.parametrize("text", [b"[]", b"3", b"null", b'"text"'])
def test_a_header_that_is_no_table_is_refused(tmp_path: Path, text: bytes) -> None:
    assert "the header must name" in refusal_of(tmp_path, pack(text))


@pytest.mark.parametrize(
    "text", [b"[" * 200_000, b'{"a":' * 200_000, b"{", b"\xff{}", b"{}{}", b'{"a":' + b"9" * 5000]
)
def test_a_header_that_is_no_json_or_nested_without_end_is_refused(
    tmp_path: Path, text: bytes
) -> None:
    assert "the safetensors header is not JSON" in refusal_of(tmp_path, pack(text))


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("F32", np.array([0, np.nan], "<f4").tobytes()),
        ("F32", np.array([0, np.inf], "<f4").tobytes()),
        ("F64", np.array([0, -np.inf], "<f8").tobytes()),
        ("F64", np.array([0, 1e39], "<f8").tobytes()),
        ("F16", np.array([0, np.nan], "<f2").tobytes()),
        ("BF16", b"\0\0\x80\x7f"),
        ("BF16", b"\0\0\xc1\xff"),
    ],
    ids=["f32 nan", "f32 inf", "f64 inf", "f64 too large", "f16 nan", "bf16 inf", "bf16 nan"],
)
def test_a_value_that_is_no_finite_float32_is_refused(
    tmp_path: Path, dtype: str, values: bytes
) -> None:
    assert "tensor 'w' has 1 values that are NaN" in refusal_of(
        tmp_path, one_tensor(dtype, values, 2)
    )


def test_each_limit_is_kept_to_the_last_byte_and_tensor(tmp_path: Path) -> None:
    header = HEADER_END - 8
    exact = Limits(file_bytes=len(VALID_BYTES), header_bytes=header, tensors=3)
    (tmp_path / "m").write_bytes(VALID_BYTES)
    assert weights.read(tmp_path / "m", exact).weights.keys() == VALID.keys()
    message = refusal(tmp_path / "m", Limits(file_bytes=len(VALID_BYTES) - 1))
    assert f"at most {len(VALID_BYTES) - 1:,} are examined" in message
    message = refusal(tmp_path / "m", Limits(header_bytes=header - 1))
    assert f"at most {header - 1:,}" in message
    message = refusal(tmp_path / "m", Limits(tensors=1))
    assert "at most 1 tensors" in message


def test_a_sparse_file_over_the_size_limit_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(Limits().file_bytes + 1)
    with pytest.raises(SuspectFileError, match="8,589,934,593 bytes"):
        weights.read(tmp_path / "huge")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "fifo"])
def test_whatever_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "suspect"
    (tmp_path / "real").write_bytes(VALID_BYTES)
    match kind:
        case "link":
            path.symlink_to(tmp_path / "real")
        case "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        case "directory":
            path.mkdir()
        case _:
            os.mkfifo(path)
    assert str(path) in refusal(path)


def test_a_missing_file_is_told_from_a_refused_one(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.safetensors: there is no such file"):
        weights.read(tmp_path / "none.safetensors")
    with pytest.raises(MissingFileError):
        weights.read(tmp_path / "a\0b")
    assert MissingFileError.exit_code != SuspectFileError.exit_code


def test_a_file_that_grows_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").write_bytes(VALID_BYTES)
    status = os.stat(tmp_path / "m")
    earlier = os.stat_result((*status[:6], status.st_size - 1, *status[7:]))
    monkeypatch.setattr(os, "fstat", lambda _: earlier)
    with pytest.raises(SuspectFileError, match="changed while it was read"):
        weights.read(tmp_path / "m")


@pytest.mark.timeout(20)
def test_a_device_that_never_ends_is_refused() -> None:
    with pytest.raises(SuspectFileError, match="not a regular file"):
        weights.read(Path("/dev/zero"))


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").write_bytes(VALID_BYTES)

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")  # root would be allowed, so it is faked

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(SuspectFileError, match="Permission denied"):
        weights.read(tmp_path / "m")


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": [], "shape": [2], "data_offsets": [0, 8]}},
        {"w": {"dtype": {}, "shape": [2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [10**4000, 10**4000], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}},
    ],
    ids=["dtype list", "dtype table", "huge product", "empty huge", "empty huge 2", "65 axes"],
)
def test_a_header_made_to_crash_the_checks_is_refused(
    tmp_path: Path, header: dict[str, Any]
) -> None:
    end = header["w"]["data_offsets"][1]
    (tmp_path / "s").write_bytes(pack(header, b"\0" * end))
    with pytest.raises(SuspectFileError):
        weights.read(tmp_path / "s")


@pytest.mark.timeout(10)
def test_a_shape_of_a_million_sizes_is_refused_at_once(tmp_path: Path) -> None:
    header = {"w": {"dtype": "F32", "shape": [9] * 1_000_000, "data_offsets": [0, 4]}}
    (tmp_path / "s").write_bytes(pack(header, b"\0" * 4))
    with pytest.raises(SuspectFileError):
        weights.read(tmp_path / "s")


def test_a_terminal_escape_in_a_tensor_name_is_not_repeated_raw(tmp_path: Path) -> None:
    header = {"\x1b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}
    (tmp_path / "s").write_bytes(pack(header, b"\0" * 8))
    with pytest.raises(SuspectFileError) as caught:
        weights.read(tmp_path / "s")
    assert "\x1b" not in str(caught.value)


# ------------------------------------------------------------------------------------- properties


def check_any_outcome(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Assert that reading ends in our own error or in a valid model file, and changes nothing."""
    directory = tmp_path_factory.mktemp("s")
    path = directory / "suspect.safetensors"
    path.write_bytes(content)
    with nothing_changes_in(directory), contextlib.suppress(SuspectFileError):
        check_valid(weights.read(path), content)


def check_valid(file: ModelFile, content: bytes) -> None:
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    reference = safetensors.deserialize(content)
    assert {name: tuple(t["shape"]) for name, t in reference} == {
        name: array.shape for name, array in file.weights.items()
    }
    for array in file.weights.values():
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert all(isinstance(word, str) for pair in file.metadata.items() for word in pair)


@given(content=st.one_of(st.binary(max_size=4096), st.binary(max_size=200).map(pack)))
def test_any_bytes_end_in_our_own_error_or_a_valid_model(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    check_any_outcome(tmp_path_factory, content)


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(VALID_BYTES) - 1), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    ),
    cut=st.integers(0, len(VALID_BYTES)),
    inserted=st.one_of(st.just(b""), st.binary(max_size=3)),
)
def test_any_mutation_of_a_valid_file_ends_in_our_own_error_or_a_valid_model(
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[int, int]],
    cut: int,
    inserted: bytes,
) -> None:
    mutated = bytearray(VALID_BYTES)
    for position, value in edits:
        mutated[position] = value
    check_any_outcome(tmp_path_factory, bytes(mutated[:cut] + inserted + mutated[cut:]))


sizes = st.lists(st.integers(0, 3), max_size=3) | st.lists(st.integers(1, 2**70), max_size=3)
entries: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F64", "F32", "F16", "BF16", "F32", "I64", "U8", None, 4]),
        "shape": sizes | st.sampled_from([None, "3", [1.5], [-1], [[]]]),
        "data_offsets": st.lists(st.integers(-1, 40), min_size=1, max_size=3)
        | st.sampled_from([[0, 4], [0, 8], [0, 12], [0, 2], [0, 24], [4, 8], [0, 0]]),
    },
    optional={"extra": st.integers()},
)
headers = st.dictionaries(st.text(max_size=3), entries, max_size=3)


@given(header=headers, data=st.binary(max_size=40), metadata=some_metadata | st.just([]))
def test_any_header_of_the_right_form_ends_in_our_own_error_or_a_valid_model(
    tmp_path_factory: pytest.TempPathFactory,
    header: dict[str, object],
    data: bytes,
    metadata: object,
) -> None:
    document = {**header, "__metadata__": metadata} if metadata else header
    check_any_outcome(tmp_path_factory, pack(document, data))


# ----------------------------------------------------------------------------------------- digest


def test_the_digest_is_that_of_names_shapes_and_little_endian_values() -> None:
    expected = hashlib.sha256(
        b"smdl-weights/1"
        + b'["a.bias", [2]]'
        + struct.pack("<2f", 0.5, -0.5)
        + b'["a.weight", [2, 3]]'
        + struct.pack("<6f", *range(6))
    )
    assert weights.digest(VALID) == expected.hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"a.bias": np.array([0.5, np.nextafter(np.float32(-0.5), np.float32(0))], np.float32)},
        {"a.weight": VALID["a.weight"].reshape(3, 2)},
        {"a.weight": VALID["a.weight"].reshape(2, 3, 1)},
        {"a.scale": np.zeros(0, np.float32)},
    ],
    ids=["last bit", "shape", "dimension", "empty tensor"],
)
def test_the_digest_tells_the_smallest_change(change: dict[str, np.ndarray[Any, Any]]) -> None:
    assert weights.digest({**VALID, **change}) != weights.digest(VALID)
    assert weights.digest({f"{n}x": a for n, a in VALID.items()}) != weights.digest(VALID)


def test_the_digest_does_not_depend_on_memory_layout_or_order() -> None:
    other = {name: np.asfortranarray(array) for name, array in reversed(VALID.items())}
    assert weights.digest(other) == weights.digest(VALID)


def test_the_digest_tells_a_scalar_from_a_vector_of_one() -> None:
    scalar = weights.digest({"s": np.array(2.0, np.float32)})
    assert scalar != weights.digest({"s": np.array([2.0], np.float32)})
