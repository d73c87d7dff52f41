"""Clients of whatever cluster was found: names in certificates, and certificates that are replaced."""

import ssl
from pathlib import Path

import pytest
from tests.scripted_server import http, self_signed

from leasehold.adapters.access import Access
from leasehold.adapters.credentials import Credentials, Given
from leasehold.adapters.kube.connecting import connect
from leasehold.adapters.kube.errors import Unknown


@pytest.mark.parametrize("server_name", ["127.0.0.1", ""])
async def test_a_certificate_is_compared_with_the_name_that_was_given(
    script, certificate, server_tls, server_name
):
    server = script([http(200, b'{"a": 1}')], tls=server_tls)
    url = server.url.replace("127.0.0.1", "localhost")
    found = Access(Credentials(url, ca_file=str(certificate[0]), server_name=server_name), "default")
    client = await connect(found, "test/1")
    try:
        if server_name:
            assert await client.get("/x") == {"a": 1}
        else:
            with pytest.raises(Unknown, match=r"[Hh]ostname mismatch"):
                await client.get("/x")
    finally:
        await client.close()


class Badges:
    """A plugin that gives certificates, the next one once it is told that the last was refused."""

    def __init__(self, *folders: Path) -> None:
        self._left = [
            Given(cert_data=(folder / "cert.pem").read_text(), key_data=(folder / "key.pem").read_text())
            for folder in folders
        ]
        self._known = False

    def given(self) -> Given:
        self._known = True
        return self._left[0]

    def fresh(self) -> bool:
        return self._known

    def forget(self) -> None:
        self._known = False
        self._left.pop(0)


async def test_a_certificate_that_ran_out_is_replaced_by_what_the_plugin_gives_next(
    script, certificate, server_tls, tmp_path
):
    """TLS knows who asks from the start of a connection on, so the next request has a connection of its own."""
    badges = [tmp_path / "first", tmp_path / "second"]
    for badge in badges:
        badge.mkdir()
        self_signed(badge)
        server_tls.load_verify_locations(badge / "cert.pem")
    server_tls.verify_mode = ssl.CERT_REQUIRED
    shown = []

    def then(answer):
        def show(connection):
            shown.append(ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True)))
            connection.sendall(answer)

        return show

    server = script([then(http(200)), then(http(401))], [then(http(200, b'{"a": 1}'))], tls=server_tls)
    credentials = Credentials(server.url, ca_file=str(certificate[0]), plugin=Badges(*badges))
    client = await connect(Access(credentials, "default"), "test/1")
    try:
        assert await client.get("/x") == {}
        assert await client.get("/x") == {"a": 1}
    finally:
        await client.close()
    first, second = ((badge / "cert.pem").read_text() for badge in badges)
    assert shown == [first, first, second]
