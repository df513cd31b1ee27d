"""What --predictor names, and options that do not suit it."""

from pathlib import Path

import numpy as np
import pytest

from smdl_flower.cli.predictor import Approach, ProtocolName, choose, counted
from smdl_flower.errors import ConfigError
from smdl_flower.interface.client import Endpoint
from smdl_flower.interface.kserve import Kserve
from smdl_flower.interface.pixels import Scale
from smdl_flower.interface.plain import Plain
from smdl_flower.interface.torchserve import Torchserve

URL = "http://127.0.0.1:1/ask"


def test_a_function_is_asked_in_batches_and_an_address_one_image_at_a_time():
    assert choose("numpy:zeros_like", Approach(), 7, None).batch == 64
    chosen = choose(URL, Approach(rate=10), 7, None)
    assert isinstance(chosen.ask, Endpoint)
    assert chosen.batch == 1
    assert chosen.timeout > 5 * 7
    assert choose(URL, Approach(), 7, 16).batch == 16


@pytest.mark.parametrize(
    "approach",
    [
        Approach(protocol=ProtocolName.SMDL),
        Approach(header_file=Path("x")),
        Approach(rate=1),
        Approach(retries=0),
    ],
)
def test_a_function_has_no_protocol(approach):
    with pytest.raises(ConfigError, match="is no address"):
        choose("numpy:zeros_like", approach, 7, None)


def test_each_protocol_is_spoken_by_its_name():
    assert Approach().language() == Plain()
    assert Approach(protocol=ProtocolName.TORCHSERVE).language() == Torchserve()
    spoken = Approach(ProtocolName.KSERVE, Scale.UNIT, "INPUT__0", "OUTPUT__0").language()
    assert spoken == Kserve(Scale.UNIT, "INPUT__0", "OUTPUT__0")


@pytest.mark.parametrize("protocol", [None, ProtocolName.SMDL, ProtocolName.TORCHSERVE])
@pytest.mark.parametrize(
    "option", [{"pixels": Scale.UINT8}, {"input_name": "x"}, {"output_name": "y"}]
)
def test_options_of_tensors_need_the_protocol_of_tensors(protocol, option):
    with pytest.raises(ConfigError, match="need --protocol kserve"):
        Approach(protocol=protocol, **option).language()


def test_whoever_waits_is_told_how_many_answers_there_are():
    told: list[str] = []
    ask = counted(lambda images: images.sum((1, 2, 3)), told.append)
    for _ in range(2):
        assert np.asarray(ask(np.ones((3, 1, 2, 2), np.uint8))).tolist() == [4, 4, 4]
    assert told == ["Asking: 3 answers ...", "Asking: 6 answers ..."]


def test_what_may_change_the_meaning_of_answers_makes_another_approach(tmp_path):
    names = tmp_path / "names"
    words = set()
    for content in ("cat\ndog\n", "dog\ncat\n"):
        names.write_text(content)
        words.add(Approach(class_names=names).words())
    words |= {Approach(ProtocolName.KSERVE, scale).words() for scale in Scale}
    words.add(Approach(output_name="y").words())
    assert len(words) == 6
    # How fast and as whom is not the meaning.
    assert Approach(rate=1, retries=0, header_file=tmp_path / "x").words() == Approach().words()
