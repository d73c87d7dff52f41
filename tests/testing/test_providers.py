"""Where an API server comes from: the order, and what is said when there is none."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.testing.programs import script

from leasehold.testing import providers, toolchain
from leasehold.testing.errors import NoControlPlaneError, SetupError
from leasehold.testing.providers import Binaries, Existing, Kind, Wish
from leasehold.testing.toolchain import CONTROL_PLANE, SERVERS

ENGINE_ANSWERS = "echo 28.2.2"
ENGINE_SILENT = "echo 'Cannot connect to the Docker daemon' >&2; exit 1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty directory that is the whole PATH."""
    directory = tmp_path / "path"
    directory.mkdir()
    return directory


@pytest.fixture
def wish(tmp_path: Path, path: Path) -> Wish:
    """A wish on a machine that has nothing."""
    env = {"PATH": str(path), "LEASEHOLD_CACHE_DIR": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    return Wish(env, progress=lambda line: None)


def having(wish: Wish, **env: str | Path) -> Wish:
    return replace(wish, env={**wish.env, **{name: str(value) for name, value in env.items()}})


def servers_in(directory: Path, version: str | None = None) -> Path:
    for name in SERVERS:
        script(directory, name, f"echo Kubernetes {version or CONTROL_PLANE.version}")
    return directory.resolve()


def test_with_nothing_there_it_says_what_was_tried_and_what_to_install(wish: Wish) -> None:
    with pytest.raises(NoControlPlaneError) as refused:
        providers.choose(wish)
    text = str(refused.value)
    tried = (
        "1. an explicit kubeconfig: none given",
        "2. KUBEBUILDER_ASSETS: not set",
        "3. a cached build: none in",
        "4. kind: no such program",
        "5. building the pinned servers: no go in PATH",
        "6. etcd and kube-apiserver in PATH: not both there",
    )
    for line in (*tried, "install Go", "setup-envtest", "install kind", "set LEASEHOLD_KUBECONFIG"):
        assert line in text


def test_each_provider_comes_before_those_after_it(wish: Wish, path: Path, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch()
    in_path = servers_in(path)
    assert providers.choose(wish) == Binaries(in_path, "PATH")

    go = "while [ $# -gt 1 ]; do [ $1 = -o ] && { echo built > $2; chmod 755 $2; }; shift; done"
    script(path, "go", f"PATH=/usr/bin:/bin; {go}")
    built = toolchain.cache_directory(CONTROL_PLANE, wish.env)
    assert providers.choose(wish) == Binaries(built, "built with Go")
    for name in SERVERS:
        (built / name).unlink()

    kind, _ = script(path, "kind"), script(path, "docker", ENGINE_ANSWERS)
    assert providers.choose(wish) == Kind(kind)

    servers_in(built)
    assert providers.choose(wish) == Binaries(built, "cached build")

    assets = servers_in(tmp_path / "assets")
    wish = having(wish, KUBEBUILDER_ASSETS=assets)
    assert providers.choose(wish) == Binaries(assets, "KUBEBUILDER_ASSETS")

    wish = having(wish, LEASEHOLD_KUBECONFIG=kubeconfig)
    assert providers.choose(wish) == Existing(kubeconfig.resolve(), "LEASEHOLD_KUBECONFIG")

    other = tmp_path / "other"
    other.touch()
    assert providers.choose(replace(wish, kubeconfig=other)) == Existing(other.resolve(), "argument")


def test_the_users_current_cluster_is_never_taken(wish: Wish, tmp_path: Path) -> None:
    current = tmp_path / ".kube" / "config"
    current.parent.mkdir()
    current.touch()
    with pytest.raises(NoControlPlaneError):
        providers.choose(having(wish, KUBECONFIG=current))


def test_local_servers_pass_over_clusters(wish: Wish, path: Path, tmp_path: Path) -> None:
    script(path, "kind")
    script(path, "docker", ENGINE_ANSWERS)
    in_path = servers_in(path)
    local = replace(having(wish, LEASEHOLD_KUBECONFIG=tmp_path), local=True)
    assert providers.choose(local) == Binaries(in_path, "PATH")


def test_the_pinned_version_is_built_where_others_are_at_hand(wish: Wish, path: Path, tmp_path: Path) -> None:
    servers_in(path)
    wish = having(wish, KUBEBUILDER_ASSETS=servers_in(tmp_path / "assets"))
    pinned = replace(wish, local=True, pinned=True)
    with pytest.raises(NoControlPlaneError, match="not looked at, the pinned version is asked for"):
        providers.choose(pinned)
    built = servers_in(toolchain.cache_directory(CONTROL_PLANE, wish.env))
    assert providers.choose(pinned) == Binaries(built, "cached build")


def test_local_servers_and_a_kubeconfig_contradict(wish: Wish, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="leave one of them out"):
        providers.choose(replace(wish, local=True, kubeconfig=tmp_path))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LEASEHOLD_KUBECONFIG", r"missing \(LEASEHOLD_KUBECONFIG\) does not exist"),
        ("KUBEBUILDER_ASSETS", "has no executable etcd and no kube-apiserver: fix or unset it"),
    ],
)
def test_a_wrong_setting_is_an_error_and_not_passed_over(
    wish: Wish, path: Path, tmp_path: Path, name: str, said: str
) -> None:
    servers_in(path)
    with pytest.raises(SetupError, match=said):
        providers.choose(having(wish, **{name: tmp_path / "missing"}))


def test_a_docker_client_without_an_engine_is_no_kind(wish: Wish, path: Path) -> None:
    script(path, "kind")
    script(path, "docker", ENGINE_SILENT)
    with pytest.raises(NoControlPlaneError, match="no engine answers: Cannot connect to the Docker daemon"):
        providers.choose(wish)


def test_kind_without_docker_is_no_kind(wish: Wish, path: Path) -> None:
    script(path, "kind")
    with pytest.raises(NoControlPlaneError, match="kind: no docker in PATH"):
        providers.choose(wish)


def test_an_engine_that_hangs_is_given_up_soon(
    wish: Wish, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "_DOCKER_SECONDS", 0.2)
    script(path, "kind")
    script(path, "docker", "exec /bin/sleep 60")
    begun = time.monotonic()
    with pytest.raises(NoControlPlaneError, match=r"no engine answered within 0\.2 s"):
        providers.choose(wish)
    assert time.monotonic() - begun < 10


def test_installed_servers_of_another_minor_version_are_not_taken(wish: Wish, path: Path) -> None:
    servers_in(path, "v1.30.1")
    with pytest.raises(NoControlPlaneError, match=r"is Kubernetes v1\.30\.1, wanted v1\.37"):
        providers.choose(wish)
