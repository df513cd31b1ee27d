"""JSON of a hostile server ends in proper values or in our own error."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.errors import ConfigError, MissingFileError, SuspectAnswersError
from smdl_flower.interface import documents

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_refused(body):
    with contextlib.suppress(SuspectAnswersError):
        documents.parse(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON"),
        (b"<html>", "no JSON"),
        (b"[" * 100_000, "deeply"),
        (b'{"a":' * 100_000, "deeply"),
        (b"[Infinity]", "Infinity is no number"),
        (b"[-Infinity]", "no number"),
        (b"[" + b"9" * 5000 + b"]", "no JSON"),
        (b"\xff\xfe[", "no JSON"),
    ],
)
def test_what_is_no_document_is_refused(body, reason):
    with pytest.raises(SuspectAnswersError, match=reason):
        documents.parse(body)


@given(JSON, st.integers(0, 4))
def test_any_document_is_labels_scores_likeliest_or_refused(value, count):
    for read in (documents.labels, documents.scores, documents.top):
        try:
            found = read(value, count)
        except SuspectAnswersError:
            continue
        assert len(found) == count
        if isinstance(found, np.ndarray):
            assert np.isfinite(found).all()
            assert found.dtype in (np.int64, np.float64)


@pytest.mark.parametrize(
    "value", [True, 1.0, -1, 1 << 31, 10**400, None, [], {}, "cat", "-1", "", "٣", "9" * 12]
)
def test_what_is_no_class_is_refused(value):
    with pytest.raises(SuspectAnswersError):
        documents.labels([value], 1)


@pytest.mark.parametrize("value", [True, 10**400, 1e999, None, "0.5", [], [[0.5]]])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(SuspectAnswersError):
        documents.scores([[value]], 1)


def test_rows_of_unequal_length_are_refused():
    uneven: list[list[object]] = [[[1, 2], [1]], [[], []], [1, 2]]
    for rows in uneven:
        with pytest.raises(SuspectAnswersError):
            documents.scores(rows, 2)


def test_names_stand_for_classes_and_others_are_refused():
    names = {"cat": 0, "dog": 1}
    assert documents.labels(["dog", 0, "1"], 3, names).tolist() == [1, 0, 1]
    assert documents.top([{"dog": 0.6}], 1, names) == [{1: 0.6}]
    with pytest.raises(SuspectAnswersError, match="--class-names"):
        documents.labels(["cow"], 1, names)
    with pytest.raises(SuspectAnswersError, match="twice"):
        documents.top([{"dog": 0.6, "1": 0.2}], 1, names)


def test_class_names_come_from_a_file_in_order(tmp_path):
    path = tmp_path / "names"
    path.write_text("cat\n dog \nÄffchen\n", "utf-8")
    assert documents.read_names(path) == {"cat": 0, "dog": 1, "Äffchen": 2}
    for content in (b"cat\ncat\n", b"cat\n\ndog\n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="names"):
            documents.read_names(path)
    with pytest.raises(MissingFileError):
        documents.read_names(tmp_path / "missing")


def test_what_somebody_sent_is_shown_in_few_characters():
    for value in ("x" * 10_000, [0] * 10_000, 10**5000, {"a": "b" * 9999}, json.loads("1e300")):
        assert len(documents.shown(value)) < 320
