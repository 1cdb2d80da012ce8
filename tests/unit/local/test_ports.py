"""A port that is chosen now is still free when Serve binds it, seconds and dozens of connections later."""

from __future__ import annotations

import socket

import pytest

from conclave.errors import EnvironmentUnfit
from conclave_cli.local.ports import check_port, free_port, is_ephemeral, lasting_ports, taken_meanwhile


@pytest.mark.parametrize(
    ("ephemeral", "ports"),
    [
        pytest.param("32768\t60999\n", range(10000, 32768), id="the kernel's default"),
        pytest.param("1024 30000", range(30001, 65536), id="a low range: above it"),
        pytest.param("9000 65535", range(10000, 65536), id="nothing lies outside"),
        pytest.param("60000 60010", range(10000, 60000), id="a small range"),
    ],
)
def test_lasting_ports(ephemeral: str, ports: range) -> None:
    assert lasting_ports(ephemeral) == ports


def test_free_ports_differ_and_are_not_handed_out_by_the_kernel() -> None:
    ports = {free_port() for _ in range(20)}
    assert len(ports) > 1
    assert not any(map(is_ephemeral, ports))


def test_a_taken_port_is_refused_by_number() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(EnvironmentUnfit, match=f"port {port}: Address already in use; choose a free port"):
            check_port(port)
    assert "gives this port to programs that connect" in taken_meanwhile(port)
