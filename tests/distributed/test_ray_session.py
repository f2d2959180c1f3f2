"""The connection to a cluster of Ray: a dead address is reported within seconds."""

import socket
import time

import pytest

from layertap.distributed import ray_session
from layertap.errors import OptionError


def connect(address):
    with ray_session.connection(address):
        pass


def test_an_address_where_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(OptionError, match=f"Connection refused.*'{address}'"):
        connect(address)
    assert time.monotonic() - begun < 5


def test_an_address_that_accepts_and_never_answers(monkeypatch):
    monkeypatch.setattr(ray_session, "_ANSWERS_WITHIN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(OptionError, match=r"No Ray cluster answers \(timed out\)"):
            connect(address)


@pytest.mark.parametrize("address", ["no-such-host.invalid:6379", "127.0.0.1:99999"])
def test_an_address_that_can_not_be(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(OptionError, match=f"No Ray cluster answers.*'{address}'"):
        connect("")


def test_a_port_is_not_cut_to_that_of_another_server(cluster):
    host, _, port = cluster.rpartition(":")
    with pytest.raises(OptionError, match="ports are below 65,536"):
        ray_session.check_answers(f"{host}:{int(port) + 2**16}")


def test_a_cluster_answers(cluster):
    ray_session.check_answers(cluster)


def test_words_of_ray_are_not_addresses():
    ray_session.check_answers("auto")
    ray_session.check_answers("local")
