"""How to reach an API server and as whom, read from and written to kubeconfig files."""

from __future__ import annotations

import base64
import binascii
import json
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from leasehold.testing.errors import SetupError


@dataclass(frozen=True)
class Connection:
    """One API server and one identity on it. Certificates and keys are PEM texts.

    `impersonate_user` and `impersonate_groups` make the identity act as somebody else, which its own rights
    must allow.
    """

    url: str
    ca: str | None = None
    token: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    impersonate_user: str | None = None
    impersonate_groups: tuple[str, ...] = ()

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context that verifies the server, with the client certificate loaded if there is one."""
        context = ssl.create_default_context(cadata=self.ca)
        if self.client_certificate and self.client_key:
            # The ssl module reads certificates from files only.
            with tempfile.TemporaryDirectory(prefix="leasehold-pem-") as directory:
                pem = Path(directory, "client.pem")
                write_private(pem, self.client_certificate + "\n" + self.client_key)
                context.load_cert_chain(pem)
        return context

    def headers(self) -> dict[str, str]:
        """Return the headers that say who is asking."""
        headers = {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.impersonate_user:
            headers["Impersonate-User"] = self.impersonate_user
        return headers

    def write(self, path: Path) -> Path:
        """Write a kubeconfig file that only its owner can read, and return its path."""
        cluster: dict[str, Any] = {"server": self.url}
        if self.ca:
            cluster["certificate-authority-data"] = _encode(self.ca)
        user: dict[str, Any] = {}
        if self.token:
            user["token"] = self.token
        if self.client_certificate and self.client_key:
            user["client-certificate-data"] = _encode(self.client_certificate)
            user["client-key-data"] = _encode(self.client_key)
        if self.impersonate_user:
            user |= {"as": self.impersonate_user, "as-groups": list(self.impersonate_groups)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "leasehold-test", "cluster": cluster}],
            "users": [{"name": "leasehold-test", "user": user}],
            "contexts": [
                {"name": "leasehold-test", "context": {"cluster": "leasehold-test", "user": "leasehold-test"}}
            ],
            "current-context": "leasehold-test",
        }
        write_private(path, json.dumps(config, indent=2) + "\n")  # JSON is YAML
        return path

    @classmethod
    def read(cls, path: Path) -> Connection:
        """Read the current context of a kubeconfig file.

        Raises SetupError when the file is missing or broken, or needs what is not supported here: exec
        plugins, auth providers, passwords and servers that are not to be verified.
        """
        try:
            config = yaml.safe_load(path.read_text())
            context = _named(config, "contexts", config["current-context"], "context")
            cluster = _named(config, "clusters", context["cluster"], "cluster")
            user = _named(config, "users", context["user"], "user")
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            message = f"kubeconfig {path} cannot be used: {error!r}. Give a file with a current context."
            raise SetupError(message) from error
        _refuse_unsupported(path, cluster, user)
        return cls(
            url=cluster["server"].rstrip("/"),
            ca=_text(path, cluster, "certificate-authority"),
            token=user.get("token") or _file_text(path, user.get("tokenFile")),
            client_certificate=_text(path, user, "client-certificate"),
            client_key=_text(path, user, "client-key"),
            impersonate_user=user.get("as"),
            impersonate_groups=tuple(user.get("as-groups") or ()),
        )


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, and replace an older one in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(name).replace(path)


def _named(config: Mapping[str, Any], section: str, name: str, key: str) -> dict[str, Any]:
    for entry in config.get(section) or ():
        if entry["name"] == name:
            return dict(entry.get(key) or {})
    raise KeyError(f"{section}: no entry named {name!r}")


def _refuse_unsupported(path: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> None:
    found = [key for key in ("exec", "auth-provider", "username") if user.get(key)]
    if cluster.get("insecure-skip-tls-verify"):
        found.append("insecure-skip-tls-verify")
    if found:
        raise SetupError(
            f"kubeconfig {path} uses {', '.join(found)}, which the test client does not support. "
            "Give one with a CA and a token or a client certificate "
            "(`kubectl create token` makes one for a service account)."
        )


def _text(path: Path, section: Mapping[str, Any], key: str) -> str | None:
    data = section.get(f"{key}-data")
    if data:
        try:
            return base64.b64decode(data, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise SetupError(f"kubeconfig {path}: {key}-data is not base64 of a PEM text") from error
    return _file_text(path, section.get(key))


def _file_text(kubeconfig: Path, name: str | None) -> str | None:
    if not name:
        return None
    try:
        return (kubeconfig.parent / name).read_text()  # relative to the kubeconfig; an absolute name wins
    except OSError as error:
        raise SetupError(f"kubeconfig {kubeconfig} names a file that cannot be read: {error}") from error


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
