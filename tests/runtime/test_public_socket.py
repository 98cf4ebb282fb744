"""The port is owned before anything is loaded, and mistakes about it are told in words."""

from __future__ import annotations

import socket

import pytest

from zeta_guard.config.listen import Listen
from zeta_guard.errors import ConfigurationError
from zeta_guard.runtime.public_socket import bind_public_socket


def test_a_free_port_is_bound_and_the_moment_is_kept() -> None:
    public = bind_public_socket(Listen(host="127.0.0.1", port=0), lambda: 1234.5)
    assert public.socket.getsockname()[1] > 0
    assert public.bound_at == 1234.5
    public.socket.close()


def test_a_port_on_which_another_process_listens_is_named_with_a_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError) as caught:
            bind_public_socket(Listen(host="127.0.0.1", port=port), lambda: 0.0)
    assert caught.value.path == "listen.port"
    assert "in use" in caught.value.seen
    assert "another one" in caught.value.remedy


def test_an_address_of_another_machine_and_a_wrong_name_are_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        bind_public_socket(Listen(host="192.0.2.1", port=0), lambda: 0.0)
    assert "0.0.0.0" in caught.value.remedy
    with pytest.raises(ConfigurationError) as caught:
        bind_public_socket(Listen(host="no such host", port=0), lambda: 0.0)
    assert caught.value.path == "listen.host"
