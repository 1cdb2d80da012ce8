"""What the pods tell Serve's proxies, as the serving side reads it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
import yaml
from pydantic import ValidationError
from tests.scenes import SETTINGS, make_deployment, make_plan

from conclave.engine.arguments import TOKEN_FILE_VARIABLE
from conclave.modeldeployment.serving.rayservice import build_rayservice
from conclave.settings import OperatorSettings
from conclave_openai.connections.limits import ConnectionLimits
from conclave_serving.proxy import connection_limits

NETWORKS = ("10.2.0.0/16", "fd00:2::/32")


def test_what_the_operator_was_told_arrives_at_every_door() -> None:
    chosen = {"connections_per_address": 7, "connections_exempt_cidrs": NETWORKS}
    settings = OperatorSettings.model_validate({**SETTINGS.model_dump(), **chosen})
    spec = build_rayservice(make_deployment(), make_plan(), settings)["spec"]
    cluster = spec["rayClusterConfig"]
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        limits = connection_limits(environment)
        assert limits == ConnectionLimits(connections_per_address=7, exempt_networks=tuple(map(ip_network, NETWORKS)))
        assert environment[TOKEN_FILE_VARIABLE] == application["args"]["token_path"]


def test_the_operators_default_is_the_doors() -> None:
    assert SETTINGS.connections_per_address == ConnectionLimits().connections_per_address


@pytest.mark.parametrize("network", ["10.2.0.1/16", "10.2.0.0/33", "gateway"])
def test_what_is_no_network_stops_the_operator_and_not_a_model(network: str) -> None:
    with pytest.raises(ValidationError, match="connections_exempt_cidrs"):
        OperatorSettings.model_validate({**SETTINGS.model_dump(), "connections_exempt_cidrs": [network]})
