"""Names: valid for their kinds, and no two deployments share one."""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from conclave import names

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")

deployments = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
KINDS: dict[str, tuple[Callable[[str], str], ...]] = {
    "RayService": (names.rayservice,),
    "Service": (names.serve_service,),
    "Secret": (lambda deployment: names.token_secret(deployment, f"uid of {deployment}"), names.former_token_secret),
    "NetworkPolicy": (names.network_policy, names.head_network_policy),
}


@given(deployments)
def test_names_are_valid(deployment: str) -> None:
    assert DNS_1035.fullmatch(names.rayservice(deployment))
    assert len(names.rayservice(deployment)) <= 47, "KubeRay's bound"
    assert DNS_1035.fullmatch(names.serve_service(deployment))
    assert len(names.serve_service(deployment)) <= 63
    for name in (
        names.token_secret(deployment, "11111111-1111-1111-1111-111111111111"),
        names.network_policy(deployment),
        names.head_network_policy(deployment),
        names.revision(deployment, "0123456789abcdef"),
    ):
        assert DNS_SUBDOMAIN.fullmatch(name)
        assert len(name) <= 63
    for key, value in names.labels(deployment, "worker").items():
        assert LABEL_VALUE.fullmatch(value), key
        assert len(value) <= 63


@given(st.sets(deployments, min_size=2, max_size=6))
def test_no_two_deployments_share_a_name(chosen: set[str]) -> None:
    for makers in KINDS.values():
        made = [maker(deployment) for deployment in chosen for maker in makers]
        assert len(made) == len(set(made))


def test_a_head_policy_is_no_other_deployments_policy() -> None:
    assert names.head_network_policy("mixtral") != names.network_policy("mixtral-head")


def test_selectors_are_spelled_in_one_order() -> None:
    assert names.selector_string({"b": "2", "a": "1"}) == "a=1,b=2"
