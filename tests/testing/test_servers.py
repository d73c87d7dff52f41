"""How the two servers are started, with fake programs: the ways a start can go wrong."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
from tests.testing.programs import python, script

from leasehold.testing import servers
from leasehold.testing.errors import StartError
from leasehold.testing.servers import Servers

# Stands in for kube-apiserver: the first start finds its port taken, later ones serve without TLS being looked at.
PORT_TAKEN_ONCE = """
import pathlib, sys
seen = pathlib.Path({seen!r})
flags = dict(a.split("=", 1) for a in sys.argv[1:])
with seen.open("a") as file: file.write(flags["--secure-port"] + "\\n")
if len(seen.read_text().splitlines()) <= {times}:
    sys.exit("failed to listen on 127.0.0.1: bind: address already in use")
import time; time.sleep(60)
"""


@pytest.fixture
def binaries(tmp_path: Path) -> Path:
    script(tmp_path / "bin", "etcd", "exec /bin/sleep 60")
    return tmp_path / "bin"


def test_a_taken_port_is_given_up_for_another(
    binaries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "ports"
    python(binaries, "kube-apiserver", PORT_TAKEN_ONCE.format(seen=str(seen), times=2))
    started = Servers(binaries, tmp_path)
    monkeypatch.setattr(started, "_ready", lambda: seen.is_file() and len(seen.read_text().splitlines()) > 2)
    started.start()
    try:
        ports = [int(port) for port in seen.read_text().splitlines()]
        assert len(ports) == 3
        assert started.port == ports[-1]
        assert started.apiserver.running()
    finally:
        started.stop()


def test_ports_that_are_always_taken_end_in_an_error(binaries: Path, tmp_path: Path) -> None:
    seen = tmp_path / "ports"
    python(binaries, "kube-apiserver", PORT_TAKEN_ONCE.format(seen=str(seen), times=99))
    started = Servers(binaries, tmp_path)
    with pytest.raises(StartError, match="address already in use"):
        started.start()
    assert len(seen.read_text().splitlines()) == 5
    assert not started.etcd.running()


def test_a_server_that_ends_is_reported_with_its_last_words(binaries: Path, tmp_path: Path) -> None:
    script(binaries, "kube-apiserver", "echo 'no such etcd'; exit 3")
    with pytest.raises(
        StartError, match=r"(?s)kube-apiserver ended with status 3 while starting:.*no such etcd"
    ):
        Servers(binaries, tmp_path).start()


def test_an_etcd_that_ends_is_reported_as_such(tmp_path: Path) -> None:
    script(tmp_path, "etcd", "echo 'disk full'; exit 1")
    script(tmp_path, "kube-apiserver", "exec /bin/sleep 60")
    with pytest.raises(StartError, match=r"(?s)etcd ended with status 1 while starting:.*disk full"):
        Servers(tmp_path, tmp_path).start()


def test_one_that_is_never_ready_is_given_up(binaries: Path, tmp_path: Path) -> None:
    script(binaries, "kube-apiserver", "exec /bin/sleep 60")
    with pytest.raises(StartError, match="not ready within 0 s"):
        Servers(binaries, tmp_path, ready_seconds=0.3).start()


def test_a_reserved_port_is_refused_to_others_and_open_to_the_server() -> None:
    with servers.reserve_port() as reservation:
        address = reservation.getsockname()
        with socket.socket() as stranger, pytest.raises(OSError) as refused:
            stranger.bind(address)
        assert refused.value.errno == errno.EADDRINUSE
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(address)
            server.listen()
            for _ in range(20):  # none goes astray to the reservation
                with socket.create_connection(address, timeout=5), server.accept()[0]:
                    pass


def test_every_key_is_a_new_one() -> None:
    keys = {servers.new_private_key() for _ in range(10)}
    assert len(keys) == 10
    assert all(key.startswith("-----BEGIN EC PRIVATE KEY-----\n") for key in keys)
