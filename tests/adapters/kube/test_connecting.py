"""Clients of whatever cluster was found: certificates that bear another name than the server's address."""

import pytest
from tests.scripted_server import http

from leasehold.adapters.access import Access
from leasehold.adapters.credentials import Credentials
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
