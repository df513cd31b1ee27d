"""Each protocol: what is asked arrives, what is answered is read, all else is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.errors import ConfigError, SuspectAnswersError
from smdl_flower.interface import documents, pixels
from smdl_flower.interface.kserve import Kserve
from smdl_flower.interface.pixels import Scale
from smdl_flower.interface.plain import Plain
from smdl_flower.interface.torchserve import Torchserve
from tests.interface.test_documents import JSON

IMAGES = np.random.default_rng(2).integers(0, 256, (3, 1, 8, 8), np.uint8)
SHAPE = (1, 8, 8)
SIGNED = pixels.scaled(IMAGES, Scale.SIGNED)
LABELS = np.array([3, 0, 2])
SCORES = np.array([[0.5, 0.25, 0.25, 0.0], [1.0, 0, 0, 0], [0.125, 0.125, 0.5, 0.25]])
LOGITS = np.array([[5.0, -1, 0.5, 2], [1, 2, 3, 4], [-9, 0, 0, 1]])
TOP = [{3: 0.5}, {0: 1.0}, {2: 0.5, 3: 0.25}]


@pytest.mark.parametrize("language", [Plain(), Kserve(), Kserve(Scale.UINT8)])
def test_images_arrive_as_a_copy_takes_them(language):
    found = language.images(language.request(IMAGES).content, SHAPE)
    assert found.shape == IMAGES.shape
    assert np.abs(found - SIGNED).max() < 1e-6


def test_torchserve_takes_one_file_at_a_time():
    body = Torchserve().request(IMAGES[:1])
    assert body.kind == "image/png"
    assert np.abs(Torchserve().images(body.content, SHAPE) - SIGNED[:1]).max() < 1e-6
    with pytest.raises(ConfigError, match="--batch-size 3"):
        Torchserve().request(IMAGES)


@pytest.mark.parametrize("said", [LABELS, SCORES, LOGITS, TOP], ids=["labels", "p", "logits", "k"])
@pytest.mark.parametrize("language", [Plain(), Kserve(), Torchserve()])
def test_answers_are_read_as_they_were_given(language, said):
    def heard(answer):
        document = documents.parse(json.dumps(language.reply(answer)).encode())
        return language.answers(document, len(answer))

    if isinstance(language, Kserve) and said is TOP:
        with pytest.raises(SuspectAnswersError, match="top-k"):
            language.reply(said)
    elif isinstance(language, Torchserve):
        for row in range(3):
            found = heard(said[row : row + 1])
            assert np.asarray(found == said[row : row + 1]).all()
    else:
        assert np.asarray(heard(said) == said).all()


@given(JSON, st.integers(1, 3))
def test_any_document_is_answers_or_refused(document, count):
    for language in (Plain(), Kserve(), Torchserve()):
        wrapped = {"format": "smdl-ask/1", "labels": document, "outputs": document}
        tensor = {"name": "x", "datatype": "FP32", "shape": document, "data": document}
        for value in (document, wrapped, {"outputs": [tensor]}):
            try:
                found = language.answers(value, count)
            except SuspectAnswersError:
                continue
            assert len(found) == count


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_request_is_images_or_refused(body):
    for language in (Plain(), Kserve(), Torchserve()):
        try:
            assert language.images(body, SHAPE).shape[1:] == SHAPE
        except SuspectAnswersError:
            continue


def tensor(**changes):
    usual = {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [0.5, 0.5, 1, 0]}
    return {"outputs": [{**usual, **changes}]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shape": [2, 3]}, "4 values"),
        ({"shape": [3, 2]}, "4 values"),
        ({"shape": [1, 4]}, "expected whole numbers"),
        ({"shape": [4]}, "expected whole numbers"),
        ({"shape": [-2, -2]}, "shape"),
        ({"shape": [2.0, 2]}, "shape"),
        ({"shape": [True, 4]}, "shape"),
        ({"shape": [2, 1, 2, 1, 1]}, "5 dimensions"),
        ({"shape": [10**30, 0]}, "4 values"),
        ({"data": [0.5, 0.5, 1, "x"]}, "finite"),
        ({"data": [[[[[0.5]]]]]}, "as a list"),
        ({"data": {"0": 1}}, "as a list"),
        ({"datatype": "BOOL"}, "expected whole numbers"),
        ({"datatype": ["FP32"]}, "expected whole numbers"),
        ({"datatype": "INT64", "shape": [4]}, "expected whole numbers"),
        ({"datatype": "INT64", "shape": [2], "data": [0.5, 1]}, "class"),
    ],
)
def test_a_tensor_that_is_none_is_refused(changes, reason):
    with pytest.raises(SuspectAnswersError, match=reason):
        Kserve().answers(tensor(**changes), 2)


def test_tensors_may_be_nested_columns_or_names():
    nested = tensor(data=[[0.5, 0.5], [1, 0]])
    assert np.asarray(Kserve().answers(nested, 2)).tolist() == [[0.5, 0.5], [1, 0]]
    column = tensor(datatype="INT32", shape=[2, 1], data=[[1], [0]])
    assert np.asarray(Kserve().answers(column, 2)).tolist() == [1, 0]
    names = tensor(datatype="BYTES", shape=[2], data=["dog", "cat"])
    spoken = Kserve(names={"cat": 0, "dog": 1}).answers(names, 2)
    assert np.asarray(spoken).tolist() == [1, 0]


def test_of_several_outputs_one_must_be_named():
    both = {"outputs": [tensor()["outputs"][0], tensor(name="z", data=[0, 1, 0, 1])["outputs"][0]]}
    with pytest.raises(SuspectAnswersError, match=r"'y', 'z'.*--output-name"):
        Kserve().answers(both, 2)
    found = Kserve(output_name="z").answers(both, 2)
    assert np.asarray(found).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"format": "smdl-ask/2", "labels": [1]},
        {"format": "smdl-ask/1"},
        {"format": "smdl-ask/1", "labels": [1], "logits": [[0.5]]},
        {"labels": [1]},
        {"format": "smdl-ask/1", "labels": [1, 2]},
    ],
)
def test_a_document_of_our_own_that_is_not_as_specified_is_refused(document):
    with pytest.raises(SuspectAnswersError):
        Plain().answers(document, 1)


def test_a_tensor_to_be_served_must_be_on_a_scale_that_is_known():
    for change in ({"datatype": "FP64"}, {"data": [2.0] * 64}, {"shape": [1, 1, 4, 16]}):
        document = json.loads(Kserve().request(IMAGES[:1]).content)
        document["inputs"][0].update(change)
        with pytest.raises(SuspectAnswersError):
            Kserve().images(json.dumps(document).encode(), SHAPE)


def test_a_question_in_a_protocol_of_others_does_not_say_who_asks():
    for body in (Kserve().request(IMAGES), Torchserve().request(IMAGES[:1])):
        assert b"smdl" not in body.content
