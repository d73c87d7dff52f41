"""The cluster that a person means: the one that kubectl would talk to, as the same user, in the same namespace.

For people and the SDK, where the operator and the reporter use only what they were given by name.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from leasehold.adapters.credentials import (
    SERVICE_ACCOUNT,
    Credentials,
    CredentialsError,
    Identity,
    in_cluster,
)
from leasehold.adapters.exec_plugin import ExecPlugin
from leasehold.adapters.kubeconfig import Entry, Kubeconfig, credentials_of

_EXEC_EXTENSION = "client.authentication.k8s.io/exec"


class Access(NamedTuple):
    """A cluster, who we are to it, the namespace to use where none is named, and the context's name ("" in a pod)."""

    credentials: Credentials
    namespace: str
    context: str = ""

    def identity(self) -> Identity:
        """Return what makes the headers and the TLS of requests."""
        return Identity(self.credentials)


def find(
    kubeconfig: str = "",
    context: str = "",
    *,
    cluster: str = "",
    user: str = "",
    environ: Mapping[str, str] = os.environ,
    account: str = SERVICE_ACCOUNT,
) -> Access:
    """Return what kubectl would use.

    That is the kubeconfig named, else those that KUBECONFIG names, merged, else ~/.kube/config, else the service
    account of a pod; there the context named, else the current one. A cluster or user that is named stands in for that
    of the context.

    Raises:
        CredentialsError: there is none, or it cannot be used.
    """
    paths = kubeconfigs(kubeconfig, environ)
    if not paths:
        return _of_pod(context or cluster or user, environ, account)
    config = Kubeconfig(paths)
    named = config.context(context) if context or config.current or not (cluster and user) else None
    of_cluster = config.entry("cluster", cluster or (named.text("cluster") if named else ""))
    user = user or (named.text("user") if named else "")
    of_user = config.entry("user", user) if user else None
    credentials = credentials_of(of_cluster, of_user)
    # As with kubectl, a token that is written down goes before the program.
    if of_user is not None and "exec" in of_user.fields and not (credentials.token or credentials.token_file):
        credentials = credentials._replace(plugin=_plugin(of_user, of_cluster))
    namespace = (named.text("namespace") if named else "") or "default"
    return Access(credentials, namespace, named.name if named else "")


def kubeconfigs(kubeconfig: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that kubectl would read. One named on the command line must be there, others may be missing."""
    if kubeconfig:
        return (kubeconfig,)
    named = environ.get("KUBECONFIG", "")
    home = environ.get("HOME") or os.path.expanduser("~")
    paths = named.split(os.pathsep) if named else [os.path.join(home, ".kube", "config")]
    return tuple(path for path in paths if path and os.path.exists(path))


def _of_pod(named: str, environ: Mapping[str, str], account: str) -> Access:
    credentials = in_cluster(environ, account)
    if credentials is None or named:
        where = environ.get("KUBECONFIG") or "~/.kube/config"
        raise CredentialsError(
            f"no cluster to talk to: there is no kubeconfig at {where}; "
            "give --kubeconfig FILE, or set KUBECONFIG to where it is"
        )
    try:
        with open(f"{account}/namespace", encoding="utf-8") as file:
            namespace = file.read().strip()
    except OSError:
        namespace = ""
    return Access(credentials, namespace or "default")


def _plugin(user: Entry, cluster: Entry) -> ExecPlugin:
    spec = user.fields["exec"]
    if not isinstance(spec, dict):
        raise CredentialsError(f"kubeconfig {user.path}: exec of user {user.name!r} is not a mapping")
    return ExecPlugin(spec, os.path.dirname(os.path.abspath(user.path)), _cluster_info(cluster))


def _cluster_info(cluster: Entry) -> dict[str, Any]:
    """Return what a plugin that asks for it is told of the cluster."""
    info: dict[str, Any] = {"server": cluster.text("server")}
    for key in ("tls-server-name", "proxy-url", "certificate-authority-data"):
        if cluster.text(key):
            info[key] = cluster.text(key)
    if cluster.fields.get("insecure-skip-tls-verify") is True:
        info["insecure-skip-tls-verify"] = True
    if cluster.text("certificate-authority") and "certificate-authority-data" not in info:
        info["certificate-authority-data"] = _encoded(cluster.file("certificate-authority"))
    for row in cluster.fields.get("extensions") or ():
        if isinstance(row, dict) and row.get("name") == _EXEC_EXTENSION:
            info["config"] = row.get("extension")
    return info


def _encoded(path: str) -> str:
    import base64

    try:
        with open(path, "rb") as file:
            return base64.b64encode(file.read()).decode("ascii")
    except OSError as error:
        raise CredentialsError(f"the CA {path} cannot be read: {error}") from error
