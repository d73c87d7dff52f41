"""Reading and writing kubeconfig files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from leasehold.testing.errors import SetupError
from leasehold.testing.kubeconfig import Connection

FULL = Connection(
    url="https://127.0.0.1:6443",
    ca="ca pem",
    token="secret",
    client_certificate="certificate pem",
    client_key="key pem",
    impersonate_user="alice",
    impersonate_groups=("a", "b"),
)


def write(path: Path, *, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> Path:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "https://x:1/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = FULL.write(tmp_path / "kubeconfig")
    assert Connection.read(path) == FULL
    assert path.stat().st_mode & 0o777 == 0o600


def test_files_are_found_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("ca pem")
    (tmp_path / "token").write_text("secret")
    path = write(
        tmp_path / "kubeconfig", cluster={"certificate-authority": "ca.crt"}, user={"tokenFile": "token"}
    )
    assert Connection.read(path) == Connection(url="https://x:1", ca="ca pem", token="secret")


@pytest.mark.parametrize(
    ("cluster", "user", "said"),
    [
        ({}, {"exec": {"command": "aws"}}, "exec"),
        ({}, {"username": "u", "password": "p"}, "username"),
        ({"insecure-skip-tls-verify": True}, {}, "insecure-skip-tls-verify"),
        ({"certificate-authority": "missing.crt"}, {}, "cannot be read"),
        ({"certificate-authority-data": "?"}, {}, "not base64"),
    ],
)
def test_what_is_not_supported_is_said(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], said: str
) -> None:
    with pytest.raises(SetupError, match=said):
        Connection.read(write(tmp_path / "kubeconfig", cluster=cluster, user=user))


@pytest.mark.parametrize("text", ["", "[]", "{", "current-context: x"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(SetupError, match=f"{path} cannot be used"):
        Connection.read(path)
