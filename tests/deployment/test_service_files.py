"""The files in deploy/ say what their README promises; Docker and systemd are not needed here."""

import configparser
import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("name", ["compose.server.yaml", "compose.participant.yaml"])
def test_containers_run_with_least_privilege(name: str) -> None:
    services = yaml.safe_load((DEPLOY / name).read_text())["services"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert re.search(r":[\w.-]*\d", service["image"]), "an image without version"
        assert "privileged" not in service


def test_only_the_proxy_is_published() -> None:
    services = yaml.safe_load((DEPLOY / "compose.server.yaml").read_text())["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]


def test_the_proxy_passes_the_fleet_api_only() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    locations = dict(re.findall(r"location (\S+) \{([^}]*)\}", text))
    assert set(locations) == {"/", "/v1/fleet/"}
    assert "return 403;" in locations["/"]
    assert "proxy_ssl_verify on;" in locations["/v1/fleet/"]


@pytest.mark.parametrize("name", ["smdl-superlink.service", "smdl-supernode.service"])
def test_services_are_confined_and_start_a_federations_script(name: str) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((DEPLOY / name).read_text())
    service = unit["Service"]
    assert service["ExecStart"].endswith("/start.sh")
    assert service["User"] == "smdl"
    for setting in ("NoNewPrivileges", "ProtectHome", "PrivateTmp"):
        assert service[setting] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
