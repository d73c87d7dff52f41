"""What kubeconfig files say: read, merged as kubectl merges them, and turned into credentials.

Nothing is run from here. What a user's `exec` names is left as it stands, for `adapters.access`; the reporter, which
runs unattended with a node's rights, refuses it.
"""

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from leasehold.adapters.credentials import Credentials, CredentialsError

Json = Mapping[str, Any]

_IMPERSONATE_EXTRA: Final = "Impersonate-Extra-"
_KINDS: Final = (("clusters", "cluster"), ("contexts", "context"), ("users", "user"))


class Entry(NamedTuple):
    """What a file says under one name. Paths in it are relative to the file's folder."""

    path: str
    name: str
    fields: Json

    def text(self, key: str) -> str:
        """Return a field as text; "" is none."""
        return str(self.fields.get(key) or "")

    def file(self, key: str) -> str:
        """Return a field that is a path."""
        name = self.text(key)
        return os.path.join(os.path.dirname(os.path.abspath(self.path)), name) if name else ""

    def data(self, key: str) -> str:
        """Return a field that is PEM in base64."""
        try:
            text = self.text(key).replace("\n", "").replace("\r", "")  # kubectl, too, takes it in lines
            return base64.b64decode(text, validate=True).decode("ascii")
        except (binascii.Error, ValueError) as error:
            raise CredentialsError(
                f"kubeconfig {self.path}: {key} of {self.name!r} is not base64 of PEM"
            ) from error


class Kubeconfig:
    """One or several files as one. The first file that names something has the word, as with kubectl."""

    def __init__(self, paths: Iterable[str]) -> None:
        """Read the files.

        Raises:
            CredentialsError: one of them cannot be read, or is no kubeconfig.
        """
        self.paths = tuple(dict.fromkeys(paths))
        self.shown = ":".join(self.paths)
        self.current = ""
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for _, kind in _KINDS}
        for path in self.paths:
            self._add(path, _parse(path))

    def _add(self, path: str, config: Json) -> None:
        self.current = self.current or str(config.get("current-context") or "")
        for rows, kind in _KINDS:
            for row in config.get(rows) or ():
                if isinstance(row, dict) and isinstance(row.get(kind), dict):
                    name = str(row.get("name"))
                    self._entries[kind].setdefault(name, Entry(path, name, row[kind]))

    def contexts(self) -> tuple[str, ...]:
        """Return the names there are, sorted."""
        return tuple(sorted(self._entries["context"]))

    def entry(self, kind: str, name: str) -> Entry:
        """Return the cluster, context or user of a name.

        Raises:
            CredentialsError: there is none; the message says which there are.
        """
        found = self._entries[kind].get(name)
        if found is not None:
            return found
        others = ", ".join(sorted(self._entries[kind])[:10]) or "none"
        if not name and kind == "context":
            raise CredentialsError(f"kubeconfig {self.shown} has no current context; it has: {others}")
        raise CredentialsError(f"kubeconfig {self.shown} has no {kind} named {name!r}; it has: {others}")

    def context(self, name: str = "") -> Entry:
        """Return the context of a name, or the current one."""
        return self.entry("context", name or self.current)


def from_kubeconfig(path: str) -> Credentials:
    """Return what the current context of one kubeconfig says: server, CA, token or client certificate.

    Raises:
        CredentialsError: the file cannot be read, is incomplete, or asks for an exec or auth-provider plugin,
            which belongs to a person's terminal and not to a node.
    """
    config = Kubeconfig((path,))
    context = config.context()
    user = config.entry("user", context.text("user")) if context.text("user") else None
    if user is not None and "exec" in user.fields:
        raise CredentialsError(
            f"kubeconfig {path}: its user runs a plugin, which the reporter does not; give a token or certificate"
        )
    return credentials_of(config.entry("cluster", context.text("cluster")), user)


def credentials_of(cluster: Entry, user: Entry | None) -> Credentials:
    """Return what a cluster and a user say, an exec plugin aside.

    Raises:
        CredentialsError: something in it cannot be used.
    """
    if not cluster.text("server"):
        raise CredentialsError(f"kubeconfig {cluster.path}: cluster {cluster.name!r} has no server; add it")
    user = user or Entry(cluster.path, "", {})
    if "auth-provider" in user.fields:
        raise CredentialsError(
            f"kubeconfig {user.path}: user {user.name!r} runs an auth-provider plugin, which Kubernetes has dropped; "
            "use an exec plugin of the provider instead"
        )
    if user.text("username") or user.text("password"):
        raise CredentialsError(
            f"kubeconfig {user.path}: user {user.name!r} has a password, which Kubernetes no longer takes; "
            "use a token, a certificate or an exec plugin"
        )
    cert = "" if user.text("client-certificate-data") else user.file("client-certificate")
    key = "" if user.text("client-key-data") else user.file("client-key")
    ca = "" if cluster.text("certificate-authority-data") else cluster.file("certificate-authority")
    return Credentials(
        server=cluster.text("server"),
        ca_file=ca,
        ca_data=cluster.data("certificate-authority-data"),
        token=user.text("token"),
        token_file=user.file("tokenFile"),
        cert_file=cert,
        cert_data=user.data("client-certificate-data"),
        key_file=key,
        key_data=user.data("client-key-data"),
        server_name=cluster.text("tls-server-name"),
        insecure=cluster.fields.get("insecure-skip-tls-verify") is True,
        proxy=cluster.text("proxy-url"),
        impersonate=_impersonation(user),
    )


def _impersonation(user: Entry) -> tuple[tuple[str, str], ...]:
    """Return the headers that ask to act as somebody else (`as`, `as-groups`, `as-uid`, `as-user-extra`)."""
    headers = [("Impersonate-User", user.text("as"))]
    headers += [("Impersonate-Group", str(group)) for group in user.fields.get("as-groups") or ()]
    headers += [("Impersonate-Uid", user.text("as-uid"))]
    for key, values in (user.fields.get("as-user-extra") or {}).items():
        headers += [(_IMPERSONATE_EXTRA + _escaped(str(key)), str(value)) for value in values or ()]
    found = tuple((name, value) for name, value in headers if value)
    for _, value in found:
        if not (value.isascii() and value.isprintable()):
            raise CredentialsError(
                f"kubeconfig {user.path}: {value!r} cannot be impersonated; plain ASCII only"
            )
    return found


def _escaped(key: str) -> str:
    """Escape what a header's name cannot hold, as client-go does."""
    return "".join(
        letter
        if letter.isascii() and (letter.isalnum() or letter in "!#$&'*+-.^_`|~")
        else "".join(f"%{byte:02X}" for byte in letter.encode())
        for letter in key
    )


def _parse(path: str) -> Json:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        raise CredentialsError(f"kubeconfig {path} cannot be read: {error}") from error
    config: object = None
    try:
        config = json.loads(text) if text.strip() else None
    except ValueError:
        config = _yaml(path, text)
    if config is None:  # with kubectl, too, a file such as /dev/null says nothing
        return {}
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
    # The C loader, where PyYAML was built with it: ten times as fast.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, loader)  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        raise CredentialsError(f"kubeconfig {path} is neither JSON nor YAML") from error
