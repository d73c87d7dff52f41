"""Reaching the cluster: a kubeconfig that was named, or the pod's service account, and never anything else."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from leasehold.adapters import login
from leasehold.adapters.kube.errors import Refused, Unknown
from leasehold.adapters.login import connect
from leasehold.settings import BadSetting


def kubeconfig(path: Path, server: str = "http://127.0.0.1:1", token: str = "secret") -> str:
    named = [{"name": "x", "cluster": {"server": server}}]
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": named,
                "users": [{"name": "x", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "current-context": "x",
            }
        )
    )
    return str(path)


async def test_a_kubeconfig_that_is_named_is_used_and_the_users_own_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "own", server="http://own.invalid"))
    client = connect(kubeconfig(tmp_path / "named", server="http://named.invalid/"))
    assert client.server == "http://named.invalid"
    assert client.session.headers["Authorization"] == "Bearer secret"
    assert client.session.headers["User-Agent"] == "leasehold-operator"
    assert os.environ["KUBECONFIG"].endswith("own"), "the environment is as it was"
    await client.close()


async def test_the_environment_stays_without_a_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    client = connect(kubeconfig(tmp_path / "named"))
    assert "KUBECONFIG" not in os.environ
    await client.close()


@pytest.mark.parametrize("content", ["{", "[]", "clusters: 5", "current-context: nowhere", ""])
async def test_a_kubeconfig_that_makes_no_sense_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad").write_text(content)
    with pytest.raises(BadSetting):
        connect(str(tmp_path / "bad"))


async def test_a_kubeconfig_that_is_missing_is_named() -> None:
    with pytest.raises(BadSetting, match="no kubeconfig at /nowhere/config"):
        connect("/nowhere/config")


async def test_outside_a_pod_nothing_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "own"))
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: None)
    with pytest.raises(BadSetting, match="give --kubeconfig FILE"):
        connect("")


@pytest.mark.parametrize(
    ("host", "server"),
    [("10.96.0.1", "https://10.96.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443"), ("", "https://by.name")],
)
async def test_a_pod_finds_the_api_server_without_dns(
    host: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = kopf.ConnectionInfo(server="https://by.name", token="secret")
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: info)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    client = connect("")
    assert client.server == server
    await client.close()


class Pod:
    """A server that knows one token at a time, and a pod's token file."""

    def __init__(self, token_file: Path) -> None:
        self.token_file = token_file
        self.valid = "one"
        self.seen: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        given = request.headers["Authorization"].removeprefix("Bearer ")
        self.seen.append(given)
        return web.json_response({}, status=200 if given == self.valid else 401)

    def rotate(self, token: str) -> None:
        self.valid = token
        self.token_file.write_text(f"{token}\n")


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    found = Pod(tmp_path / "token")
    found.rotate("one")
    return found


async def serve(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> TestServer:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", pod.answer)
    server = TestServer(app)
    await server.start_server()
    info = kopf.ConnectionInfo(server=str(server.make_url("/")), token="read at the start")
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: info)
    return server


async def test_a_connection_that_the_event_loop_refuses_is_a_failed_one_for_every_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop does, where a new connection gets the file descriptor of a dead one; it must not end the operator."""

    async def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("File descriptor 18 is used by transport <TCPTransport closed=False>")

    client = connect(kubeconfig(tmp_path / "c"))
    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", refused)
    with pytest.raises(aiohttp.ClientConnectionError, match="File descriptor 18"):
        await client.session.get("http://127.0.0.1:1/")
    await client.close()


async def test_a_renewed_token_is_read_again(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await serve(pod, monkeypatch)
    now = [100.0]
    monkeypatch.setattr(login, "time", SimpleNamespace(monotonic=lambda: now[0]))
    client = connect("", token_file=pod.token_file)
    await client.get("/a")
    pod.token_file.write_text("two")
    await client.get("/a")
    assert pod.seen == ["one", "one"], "not read for each request"
    now[0] += 61
    pod.valid = "two"
    await client.get("/a")
    assert pod.seen[-1] == "two"
    await client.close()
    await server.close()


async def test_a_token_that_is_refused_is_read_again_at_once(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(pod, monkeypatch)
    client = connect("", token_file=pod.token_file)
    await client.get("/a")
    pod.rotate("two")
    with pytest.raises(Refused):
        await client.get("/a")
    await client.get("/a")
    await client.close()
    await server.close()


async def test_a_token_file_that_is_away_for_a_moment(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await serve(pod, monkeypatch)
    client = connect("", token_file=pod.token_file)
    pod.token_file.unlink()
    with pytest.raises(Unknown, match="no token"):
        await client.get("/a")
    pod.rotate("one")
    await client.get("/a")
    pod.token_file.unlink()
    monkeypatch.setattr(login, "_TOKEN_AGE_SECONDS", -1.0)
    await client.get("/a")
    assert pod.seen == ["one", "one"]
    await client.close()
    await server.close()
