"""The compose files: what they set exists, and they are as careful as the documentation says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from quantus_miner.setting_table import SETTINGS

FOLDER: Final = Path(__file__).parent.parent / "packaging/oci"
FILES: Final = sorted(path.name for path in FOLDER.glob("compose*.yml"))


def compose_file(name: str) -> Any:
    # Without the tag by which a file removes what the file before it has set.
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8").replace("!reset ", ""))


def test_there_is_one_for_each_use() -> None:
    assert FILES == ["compose.monitoring.yml", "compose.node.yml", "compose.yml"]


@pytest.mark.parametrize("name", FILES)
def test_the_variables_are_settings(name: str) -> None:
    known = {variable for setting in SETTINGS for variable in setting.environment}
    services = compose_file(name)["services"].values()
    assert {variable for service in services for variable in service.get("environment", {})} <= known


@pytest.mark.parametrize("name", FILES)
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    ports = [port for service in compose_file(name)["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_containers_are_confined() -> None:
    services = compose_file("compose.yml")["services"] | {"node": compose_file("compose.node.yml")["services"]["node"]}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_the_files_that_they_name_exist() -> None:
    build = compose_file("compose.yml")["services"]["miner"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file()
    for file in compose_file("compose.monitoring.yml")["include"]:
        assert (FOLDER / file).is_file()
