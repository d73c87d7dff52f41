"""Makes and reads the webhook's certificates, and what TLS needs of them: the only door to X.509."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Iterable
from contextlib import suppress

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from leasehold.core.certificates import LIFETIME, SKEW, Certificate, Pair

_UNREADABLE = (
    *(ValueError, TypeError, UnsupportedAlgorithm, ssl.SSLError),
    *(x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def make(names: Iterable[str], now: int) -> Pair:
    """Return a new self-signed certificate for these hosts, with its key."""
    hosts = sorted(names)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leasehold admission webhook")])
    usage = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - SKEW))
        .not_valid_after(_time(now + LIFETIME))
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(
        _certificate(made),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )


def read_all(pem: bytes | None) -> tuple[Certificate, ...]:
    """Read certificates, one after the other; none where one of them is broken."""
    with suppress(*_UNREADABLE):
        return tuple(map(_certificate, x509.load_pem_x509_certificates(pem or b"")))
    return ()


def read_pair(pem: bytes | None, key: bytes | None) -> Pair | None:
    """Read a certificate and its key; None where one is missing or broken, or they do not belong together."""
    with suppress(*_UNREADABLE):
        found = x509.load_pem_x509_certificate(pem or b"")
        private = serialization.load_pem_private_key(key or b"", None)
        if private.public_key() != found.public_key():
            return None
        pair = Pair(_certificate(found), (key or b"").decode())
        server_context(pair)  # TLS has the last word
        return pair
    return None


def server_context(pair: Pair) -> ssl.SSLContext:
    """Return what a server needs to serve by this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The library reads files only. This one is in memory: the key touches no disk, and the root may be read-only.
    file = os.memfd_create("webhook", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as text:
            text.write(f"{pair.certificate.pem}\n{pair.key}".encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context


def _certificate(found: x509.Certificate) -> Certificate:
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]
    return Certificate(
        found.public_bytes(serialization.Encoding.PEM).decode(),
        frozenset(hosts),
        _milliseconds(found.not_valid_before_utc),
        _milliseconds(found.not_valid_after_utc),
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _time(instant: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(seconds=instant // 1000)


def _milliseconds(moment: datetime.datetime) -> int:
    return (moment - _EPOCH) // datetime.timedelta(milliseconds=1)
