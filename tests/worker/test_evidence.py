"""What counts as evidence that the server is down, rather than the way to it."""

import socket

import pytest

from pqlite.store.link import is_direct, says_server_is_down


class Peer:
    def __init__(self, name: object) -> None:
        self.name = name

    def getpeername(self) -> object:
        return self.name


@pytest.mark.parametrize(
    ("host", "port", "peer", "direct"),
    [
        ("10.0.0.5", 5432, ("10.0.0.5", 5432), True),
        ("::1", 5432, ("::1", 5432, 0, 0), True),
        ("10.0.0.5", 5432, ("127.0.0.1", 5432), False),  # a sidecar
        ("172.17.0.2", 5432, ("172.17.0.2", 15432), False),  # a mapped port
        (None, None, "/run/postgresql/.s.PGSQL.5432", True),
        ("10.0.0.5", 5432, "/run/proxy/.s.PGSQL.5432", False),
    ],
)
def test_a_connection_is_direct_when_the_server_has_the_address_we_see(
    host: str | None, port: int | None, peer: object, direct: bool
) -> None:
    assert is_direct(host, port, Peer(peer)) is direct


def test_a_connection_whose_socket_cannot_be_seen_counts_as_indirect() -> None:
    assert not is_direct(None, None, None)


def test_a_refusal_says_something_of_the_server_only_where_nothing_stands_between() -> None:
    assert says_server_is_down(ConnectionRefusedError(), direct=True)
    assert not says_server_is_down(ConnectionRefusedError(), direct=False)
    assert not says_server_is_down(TimeoutError(), direct=True)
    assert not says_server_is_down(ConnectionResetError(), direct=True)
    assert not says_server_is_down(socket.gaierror(), direct=True)
