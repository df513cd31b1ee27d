"""What --predictor names, and options that do not suit it."""

from pathlib import Path

import pytest

from smdl_flower.cli.predictor import Approach, ProtocolName, choose
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
