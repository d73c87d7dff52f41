"""Where the API server is and how to be known to it: a pod's service account, a kubeconfig, or options."""

import base64
import binascii
import json
import os
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[-A-Za-z0-9_.]+))(?::(?P<port>\d{1,5}))?(?P<path>/[^?#\s]*)?"
)

MAX_PORT: Final = 65535
SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"

Json = Mapping[str, Any]


class CredentialsError(Exception):
    """What was given to reach the API server cannot be used. The message says what to give instead."""


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
        raise CredentialsError(f"server {server!r} is not a URL such as https://10.0.0.1:6443")
    tls = url["scheme"] == "https"
    return Address(
        url["v6"] or url["host"], port or (443 if tls else 80), tls, (url["path"] or "").rstrip("/")
    )


def in_cluster(environ: Mapping[str, str], account: str = SERVICE_ACCOUNT) -> Credentials | None:
    """Return the credentials every pod has, or None outside of one."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return None
    authority = f"[{host}]" if ":" in host else host
    return Credentials(
        f"https://{authority}:{port}", ca_file=f"{account}/ca.crt", token_file=f"{account}/token"
    )


def from_kubeconfig(path: str) -> Credentials:
    """Return what the current context of a kubeconfig says: server, CA, token or client certificate.

    Raises:
        CredentialsError: the file cannot be read, is incomplete, or asks for an exec or auth-provider plugin,
            which belongs to a person's terminal and not to a node.
    """
    try:
        text = _contents(path)
    except (OSError, ValueError) as error:
        raise CredentialsError(f"kubeconfig {path} cannot be read: {error}") from error
    config = _parse(path, text)
    context = _named(path, config, "contexts", "context", config.get("current-context"))
    cluster = _named(path, config, "clusters", "cluster", context.get("cluster"))
    user = _named(path, config, "users", "user", context.get("user")) if context.get("user") else {}
    if "exec" in user or "auth-provider" in user:
        raise CredentialsError(
            f"kubeconfig {path}: its user runs a plugin, which the reporter does not; give a token or certificate"
        )
    folder = os.path.dirname(os.path.realpath(path))
    return Credentials(
        server=_text(cluster, "server"),
        ca_file=_file(folder, cluster, "certificate-authority"),
        ca_data=_data(path, cluster, "certificate-authority-data"),
        token=_text(user, "token"),
        token_file=_file(folder, user, "tokenFile"),
        cert_file=_file(folder, user, "client-certificate"),
        cert_data=_data(path, user, "client-certificate-data"),
        key_file=_file(folder, user, "client-key"),
        key_data=_data(path, user, "client-key-data"),
        server_name=_text(cluster, "tls-server-name"),
        insecure=cluster.get("insecure-skip-tls-verify") is True,
    )


def _parse(path: str, text: str) -> Json:
    config: object = None
    try:
        config = json.loads(text)
    except ValueError:
        config = _yaml(path, text)
    if not isinstance(config, dict):
        raise CredentialsError(f"kubeconfig {path} is not a mapping")
    return config


def _yaml(path: str, text: str) -> object:
    try:
        import yaml  # a node's pod has a service account instead and does without
    except ImportError as error:
        raise CredentialsError(
            f"kubeconfig {path} is YAML; install PyYAML, write it as JSON, or give --server, --ca-file and --token-file"
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CredentialsError(f"kubeconfig {path} is neither JSON nor YAML") from error


def _named(path: str, config: Json, rows: str, key: str, name: object) -> Json:
    for row in config.get(rows) or ():
        if isinstance(row, dict) and row.get("name") == name and isinstance(row.get(key), dict):
            found: Json = row[key]
            return found
    raise CredentialsError(f"kubeconfig {path} has no {key} named {name!r}")


def _text(part: Json, key: str) -> str:
    return str(part.get(key) or "")


def _file(folder: str, part: Json, key: str) -> str:
    name = _text(part, key)
    return os.path.join(folder, name) if name else ""


def _contents(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _data(path: str, part: Json, key: str) -> str:
    try:
        return base64.b64decode(_text(part, key), validate=True).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise CredentialsError(f"kubeconfig {path}: {key} is not base64 of PEM") from error


class Token:
    """The bearer token. One in a file is read again when the file changes: the kubelet rotates it hourly."""

    def __init__(self, credentials: Credentials) -> None:
        self._path = credentials.token_file
        self._value = credentials.token
        self._signature: tuple[int, int, int] | None = None

    def value(self) -> str:
        """Return the token to send now, or "" where none is used.

        Raises:
            CredentialsError: the file cannot be read and never could be.
        """
        if not self._path:
            return self._value
        try:
            stat = os.stat(self._path)
            signature = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if signature != self._signature:
                self._value = _contents(self._path).strip()
                self._signature = signature
        except (OSError, ValueError) as error:
            if not self._value:
                raise CredentialsError(f"token file {self._path} cannot be read: {error}") from error
        return self._value

    def forget(self) -> None:
        """Read the file again the next time, whatever its dates say."""
        self._signature = None


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
            context.load_cert_chain(with_cert.path, with_key.path or None)
    finally:
        with_cert.close()
        with_key.close()


class _File(NamedTuple):
    path: str
    close: Callable[[], None]


def _as_file(path: str, text: str) -> _File:
    if path or not text:
        return _File(path, lambda: None)
    descriptor = os.memfd_create("leasehold")
    os.write(descriptor, text.encode("ascii"))
    return _File(f"/proc/self/fd/{descriptor}", lambda: os.close(descriptor))
