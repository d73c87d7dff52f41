"""Certificates as they are made, and as they are read back, whatever somebody put into the Secret."""

from __future__ import annotations

import asyncio
import ssl
import warnings

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from leasehold.adapters import certificates
from leasehold.adapters.clock import SteadyClock
from leasehold.core.certificates import LIFETIME, SKEW

NOW = 1_800_000_000_000
HOSTS = frozenset({"leasehold-webhook.leasehold-system.svc", "127.0.0.1", "::1"})
MADE = certificates.make(HOSTS, NOW)
DER = ssl.PEM_cert_to_DER_cert(MADE.certificate.pem)


def test_what_was_made_is_read_back() -> None:
    made = certificates.make(HOSTS, NOW)
    assert made.certificate.names == HOSTS
    assert (made.certificate.start, made.certificate.end) == (NOW - SKEW, NOW + LIFETIME)
    pem, key = made.certificate.pem.encode(), made.key.encode()
    assert certificates.read_pair(pem, key) == made
    assert certificates.read_all(pem + pem) == (made.certificate, made.certificate)
    assert certificates.make(HOSTS, NOW) != made


def test_nobody_can_sign_more_with_its_key() -> None:
    made = x509.load_pem_x509_certificate(certificates.make(HOSTS, NOW).certificate.pem.encode())
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not made.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


@pytest.mark.parametrize(
    "broken", [None, b"", b"garbage", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n"]
)
def test_what_cannot_be_read_is_as_if_it_were_not_there(broken: bytes | None) -> None:
    made = certificates.make(HOSTS, NOW)
    assert certificates.read_all(broken) == ()
    assert certificates.read_pair(broken, made.key.encode()) is None
    assert certificates.read_pair(made.certificate.pem.encode(), broken) is None
    half = made.certificate.pem.encode()[:200]
    assert certificates.read_pair(half, made.key.encode()) is None


@given(st.data())
def test_no_byte_that_is_wrong_harms_who_reads_it(data: st.DataObject) -> None:
    """Whoever can write the Secret must not be able to end an operator."""
    at = data.draw(st.integers(0, len(DER) - 1))
    wrong = bytearray(DER)
    wrong[at] ^= data.draw(st.integers(1, 255))
    pem = ssl.DER_cert_to_PEM_cert(bytes(wrong)).encode()
    with warnings.catch_warnings(action="ignore"):
        certificates.read_all(pem)
        certificates.read_pair(pem, MADE.key.encode())


@pytest.mark.parametrize("version", [3, 18])
def test_a_certificate_of_no_version_is_none(version: int) -> None:
    before, mark, after = DER.partition(b"\xa0\x03\x02\x01")
    assert after[0] == 2
    pem = ssl.DER_cert_to_PEM_cert(before + mark + bytes([version]) + after[1:]).encode()
    assert certificates.read_all(pem) == ()
    assert certificates.read_pair(pem, MADE.key.encode()) is None


def test_a_key_of_another_certificate_is_no_key() -> None:
    one, other = certificates.make(HOSTS, NOW), certificates.make(HOSTS, NOW)
    assert certificates.read_pair(one.certificate.pem.encode(), other.key.encode()) is None


async def test_a_client_that_trusts_it_is_served_and_no_other() -> None:
    made = certificates.make({"127.0.0.1"}, SteadyClock().now())

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=certificates.server_context(made))
    async with server:
        port = server.sockets[0].getsockname()[1]
        trusting = ssl.create_default_context(cadata=made.certificate.pem)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        assert await reader.read() == b"hello"
        writer.close()
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
            await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())
