"""Ports of the testbed: no two processes are told of the same ones."""

import json
import socket
import subprocess
import sys

from testbed.ports import BLOCK, LOOPBACK, free_ports

ASKS = "import json, sys; from testbed.ports import free_ports; print(json.dumps(free_ports(200)), flush=True); input()"


def test_two_processes_are_never_told_of_the_same_port() -> None:
    others = [
        subprocess.Popen(
            [sys.executable, "-c", ASKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    told = [free_ports(200)]
    for other in others:
        assert other.stdout is not None
        told.append(json.loads(other.stdout.readline()))
    for other in others:
        other.communicate("\n", timeout=10)
    assert len({port for ports in told for port in ports}) == 4 * 200
    assert all(other.returncode == 0 for other in others)


def test_a_port_that_somebody_holds_is_not_given_out() -> None:
    [port] = free_ports(1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        held.bind((LOOPBACK, port))
        held.listen()
        assert port not in {each for _ in range(BLOCK) for each in free_ports(1)}
    assert port in {each for _ in range(BLOCK) for each in free_ports(1)}
