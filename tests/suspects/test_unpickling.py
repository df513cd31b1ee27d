"""A pickle builds values of ours; whatever it calls is noted and not called."""

import os
import pickle  # noqa: TID251 - the reference, on pickles made here
import pickletools
import struct
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects import unpickling
from smdl_flower.suspects.foreign import Foreign, Name
from smdl_flower.suspects.unpickling import Rules, unpickle

RULES = Rules({"collections.OrderedDict": lambda _: {}}, lambda reference: ("ref", reference))

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=30,
)


def value_of(content: bytes):
    return unpickle(memoryview(content), RULES).value


@given(value=plain, protocol=st.integers(0, 5))
def test_plain_values_are_what_pickle_makes_of_them(value, protocol):
    result = unpickle(memoryview(pickle.dumps(value, protocol)), RULES)
    if protocol > 2 or not result.called:  # bytes are a call of a function in old pickles
        assert result.value == value


def test_every_opcode_is_known_or_refused_by_name():
    for opcode in pickletools.opcodes:
        known = (*unpickling._PUSHED, *unpickling._CONSTANTS, *unpickling._EMPTY)
        done = (*known, *unpickling._STEPS, "PROTO", "FRAME", "STOP")
        assert (opcode.name in done) != (
            opcode.name in ("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER")
        )


def test_known_names_are_called_by_rules_of_ours_and_others_only_noted():
    result = unpickle(memoryview(pickle.dumps(OrderedDict(a=1), 2)), RULES)
    assert (result.value, result.called) == ({"a": 1}, ())


@pytest.mark.parametrize(
    "program",
    [
        b"cposix\nsystem\n(S'touch CANARY'\ntR.",  # REDUCE
        b"(S'touch CANARY'\niposix\nsystem\n.",  # INST
        b"(cposix\nsystem\nS'touch CANARY'\no.",  # OBJ
        b"\x80\x02cposix\nsystem\n(S'touch CANARY'\nt\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93(S'touch CANARY'\ntR.",  # STACK_GLOBAL
        b"cbuiltins\ngetattr\n(cos\nS'system'\ntR(S'touch CANARY'\ntR.",  # what a call returned
        b"(dp0\nS'w'\ncposix\nsystem\n(S'touch CANARY'\ntRsS'x'\nI1\ns.",  # inside a dict
    ],
)
def test_nothing_is_executed_however_it_is_called(program, tmp_path):
    canary = tmp_path / "canary"
    program = program.replace(b"CANARY", str(canary).encode())
    result = unpickle(memoryview(program), RULES)
    assert result.called
    assert not canary.exists()


def test_the_same_program_does_run_if_it_is_unpickled(tmp_path):
    canary = tmp_path / "canary"
    program = b"cposix\nsystem\n(S'touch CANARY'\ntR.".replace(b"CANARY", str(canary).encode())
    pickle.loads(program)  # noqa: S301 - made here
    assert canary.exists()


def test_the_state_of_something_foreign_is_kept_and_not_applied():
    class Local:
        weight: list[int]

    thing = Local()
    thing.weight = [1, 2]
    Local.__qualname__ = "Local"
    globals()["Local"] = Local
    value = value_of(pickle.dumps(thing, 2))
    assert isinstance(value, Foreign)
    assert value.state == {"weight": [1, 2]}


def test_references_go_to_the_rule():
    assert value_of(b"\x80\x02X\x01\x00\x00\x00aQ.") == ("ref", "a")
    assert value_of(b"Pb\n.") == ("ref", "b")


def test_a_name_alone_is_a_name():
    assert value_of(b"cposix\nsystem\n.") == Name("posix.system")


def test_a_value_that_holds_itself_is_built_once():
    value = value_of(b"]q\x00h\x00a.")
    assert value[0] is value


def test_a_huge_index_of_the_memo_takes_no_memory():
    assert value_of(b"Nr\xff\xff\xff\xff.") is None
    assert value_of(b"Np99999999999999999999\n.") is None


@pytest.mark.parametrize(
    "program",
    [
        *(
            b"",
            b".",
            b"N",
            b"(.",
            b"0.",
            b"1.",
            b"2.",
            b"R.",
            b"NNR",
            b"h\x00.",
            b"t.",
            b"(t",
            b"\x85.",
        ),
        *(
            b"Na.",
            b"]Na",
            b"NNNs.",
            b"(NNu.",
            b"}(Nu.",
            b"\x93.",
            b"NN\x93.",
            b"\x82\x01.",
        ),
        *(
            b"Ix\n.",
            b"I" + b"9" * 5000 + b"\n.",
            b"L1.",
            b"Fx\n.",
            b"V\\u12\n.",
            b"o.",
            b"(o.",
        ),
        b"T" + struct.pack("<i", -5) + b"abc.",
        b"X" + struct.pack("<I", 2**31) + b"abc.",
        b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",
        b"\x8b" + struct.pack("<i", 2**30) + b"abc.",
        b"X\x01\x00\x00\x00\xff.",
        b"\x97.",
        b"q",
    ],
)
def test_damaged_programs_end_in_our_own_error(program):
    with pytest.raises(SuspectFileError):
        value_of(program)


def test_a_program_of_too_many_steps_is_refused(monkeypatch):
    monkeypatch.setattr(unpickling, "STEPS", 1000)
    assert value_of(b"N0" * 400 + b"N.") is None
    with pytest.raises(SuspectFileError, match="more than 1,000 steps"):
        value_of(b"N0" * 600 + b"N.")


def test_a_line_without_end_is_not_read_to_the_end():
    with pytest.raises(SuspectFileError):
        value_of(b"S'" + b"a" * 200_000 + b"'\n.")


def test_os_is_what_the_canary_programs_say():
    assert os.name == "posix"
