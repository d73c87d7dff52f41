"""Where an API server is, who we are to it, and what goes into each request because of that.

Small: the reporter runs it on every node. Kubeconfigs are read in `adapters.kubeconfig`, the programs that people's
kubeconfigs name are run in `adapters.exec_plugin`, and `adapters.access` finds what a person or the SDK should use.
"""

import os
import re
import ssl
import sys
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[-A-Za-z0-9_.]+))(?::(?P<port>\d{1,5}))?(?P<path>/[^?#\s]*)?"
)

MAX_PORT: Final = 65535
SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


class CredentialsError(Exception):
    """What was given to reach the API server cannot be used. The message says what to give instead."""


class Given(NamedTuple):
    """What a plugin gave: a bearer token, or a client certificate with its key as PEM text. "" is none."""

    token: str = ""
    cert_data: str = ""
    key_data: str = ""

    def __repr__(self) -> str:
        """Tell nothing secret."""
        return "Given(…)"


class Plugin(Protocol):
    """Something that gives short-lived credentials when asked, and keeps them until they expire."""

    def given(self) -> Given:
        """Return what to use now. May take long: a person may have to log in. Raises CredentialsError."""

    def fresh(self) -> bool:
        """Tell whether `given` would return at once."""

    def forget(self) -> None:
        """Ask anew the next time: the server refused what was given."""


class Credentials(NamedTuple):
    """One way to one API server. Certificates and keys are PEM, as files or as text; "" is none."""

    server: str
    ca_file: str = ""
    ca_data: str = ""
    token: str = ""
    token_file: str = ""
    cert_file: str = ""
    cert_data: str = ""
    key_file: str = ""
    key_data: str = ""
    server_name: str = ""
    insecure: bool = False
    proxy: str = ""
    plugin: Plugin | None = None
    impersonate: tuple[tuple[str, str], ...] = ()
    """Headers that say whom to act as."""

    def __repr__(self) -> str:
        """Name the server and nothing secret."""
        return f"Credentials({self.server})"


class Address(NamedTuple):
    """A server's URL in parts."""

    host: str
    port: int
    tls: bool
    path: str

    @property
    def authority(self) -> str:
        """What goes into the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def address_of(server: str) -> Address:
    """Take a server's URL apart.

    Raises:
        CredentialsError: it is not an http or https URL.
    """
    url = _URL.fullmatch(server)
    port = int((url and url["port"]) or 0)
    if url is None or port > MAX_PORT:
        raise CredentialsError(
            f"server {without_password(server)!r} is not a URL such as https://10.0.0.1:6443"
        )
    tls = url["scheme"] == "https"
    return Address(
        url["v6"] or url["host"], port or (443 if tls else 80), tls, (url["path"] or "").rstrip("/")
    )


def without_password(url: str) -> str:
    """Return what may be shown of a URL: who asks and by which password is left out."""
    scheme, slashes, rest = url.rpartition("//")
    return scheme + slashes + rest.rpartition("@")[2]


def in_cluster(environ: Mapping[str, str], account: str = SERVICE_ACCOUNT) -> Credentials | None:
    """Return the credentials every pod has, or None outside of one."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return None
    authority = f"[{host}]" if ":" in host else host
    return Credentials(
        f"https://{authority}:{port}", ca_file=f"{account}/ca.crt", token_file=f"{account}/token"
    )


class Token:
    """The bearer token. One in a file is read again when the file changes: the kubelet rotates it hourly."""

    def __init__(self, credentials: Credentials) -> None:
        self._path = credentials.token_file
        self._value = credentials.token
        self._signature: tuple[int, int, int] | None = None

    def value(self) -> str:
        """Return the token to send now, or "" where none is used.

        Raises:
            CredentialsError: the file cannot be read and never could be, or is not a token.
        """
        if not self._path:
            return self._value
        try:
            stat = os.stat(self._path)
            signature = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if signature != self._signature:
                with open(self._path, encoding="utf-8") as file:
                    self._value = file.read().strip()
                self._signature = signature
        except (OSError, ValueError) as error:
            if not self._value:
                raise CredentialsError(f"token file {self._path} cannot be read: {error}") from error
        return self._value

    def forget(self) -> None:
        """Read the file again the next time, whatever its dates say."""
        self._signature = None


class Identity:
    """Who we are to one API server: the headers of each request, and how to speak TLS.

    Safe to share between threads. An event loop asks `ready` first, and where that is False calls `headers` and `tls`
    in a thread: a plugin is a program that runs, and a person may have to answer it.
    """

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._token = Token(credentials)
        self._tls: ssl.SSLContext | None = None
        self._tls_for: Given | None = None

    def __repr__(self) -> str:
        """Name the server and nothing secret."""
        return f"Identity({self.credentials.server})"

    @property
    def renewable(self) -> bool:
        """Tell whether a refused request may fare better after `forget`."""
        return bool(self.credentials.token_file or self.credentials.plugin)

    def ready(self) -> bool:
        """Tell whether `headers` and `tls` return at once."""
        return self.credentials.plugin is None or self.credentials.plugin.fresh()

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that say who asks, for the next request. A name may occur several times.

        Raises:
            CredentialsError: the token cannot be had; the message says why and never holds it.
        """
        plugin = self.credentials.plugin
        token = (plugin.given().token if plugin is not None else "") or self._token.value()
        if not token:
            return list(self.credentials.impersonate)
        if not (token.isascii() and token.isprintable()):
            where = self.credentials.token_file or "the kubeconfig or its plugin"
            raise CredentialsError(f"the token of {where} holds characters that no token has; correct it")
        return [("Authorization", f"Bearer {token}"), *self.credentials.impersonate]

    def tls(self) -> ssl.SSLContext:
        """Return how to speak TLS; a new one when a plugin has given another certificate.

        Raises:
            CredentialsError: a certificate or key cannot be read or is not PEM, or a plugin gave none.
        """
        plugin = self.credentials.plugin
        given = plugin.given() if plugin is not None else None
        if self._tls is None or given != self._tls_for:
            credentials = self.credentials
            if given is not None and given.cert_data:
                credentials = credentials._replace(
                    cert_file="", key_file="", cert_data=given.cert_data, key_data=given.key_data
                )
            self._tls = tls_context(credentials)
            self._tls_for = given
        return self._tls

    def forget(self) -> None:
        """Have token and certificates read anew: the server refused them."""
        self._token.forget()
        self.forget_tls()
        if self.credentials.plugin is not None:
            self.credentials.plugin.forget()

    def forget_tls(self) -> None:
        """Have certificates read anew, since a connection failed: the CA may have been rotated."""
        self._tls = None


def tls_context(credentials: Credentials) -> ssl.SSLContext:
    """Return how to speak TLS with the server.

    Only the given CA is loaded; the system's bundle, which costs memory, only where none is given.

    Raises:
        CredentialsError: a certificate or key cannot be read or is not PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if credentials.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if credentials.ca_file or credentials.ca_data:
            context.load_verify_locations(credentials.ca_file or None, cadata=credentials.ca_data or None)
        elif not credentials.insecure:
            context.load_default_certs()
        _load_client_certificate(context, credentials)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CredentialsError(
            f"the certificates for {credentials.server} cannot be used: {error}"
        ) from error
    return context


def _load_client_certificate(context: ssl.SSLContext, credentials: Credentials) -> None:
    """OpenSSL reads certificate and key from files only; what came as text goes there without touching a disk."""
    with_cert = _as_file(credentials.cert_file, credentials.cert_data)
    with_key = _as_file(credentials.key_file, credentials.key_data)
    try:
        if with_cert.path:
            # Without a password OpenSSL would ask the terminal for one.
            context.load_cert_chain(with_cert.path, with_key.path or None, password="")
    finally:
        with_cert.close()
        with_key.close()


class _File(NamedTuple):
    path: str
    close: Callable[[], None]


def _as_file(path: str, text: str) -> _File:
    if path or not text:
        return _File(path, lambda: None)
    if sys.platform != "linux":
        return _on_disk(text)
    descriptor = os.memfd_create("leasehold")
    os.write(descriptor, text.encode("ascii"))
    return _File(f"/proc/self/fd/{descriptor}", lambda: os.close(descriptor))


def _on_disk(text: str) -> _File:
    """Return a file that nobody else can read, for as long as it takes to read it."""
    import tempfile  # people's machines only: where there is no file without a disk

    descriptor, path = tempfile.mkstemp(prefix="leasehold-")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    return _File(path, lambda: os.unlink(path))
