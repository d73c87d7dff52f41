"""Helm 3 and Helm 4, each built once of its pinned version, and the chart as they render it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from leasehold.testing import toolchain

CHART = Path(__file__).parents[2] / "helm" / "leasehold"
NAMESPACE = "leasehold-system"

Object = dict[str, Any]


class Rendered:
    """What a rendering made, by kind and name."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def objects(self) -> list[Object]:
        # By libyaml: the definitions are long, and read often.
        return [document for document in yaml.load_all(self.text, yaml.CSafeLoader) if document]

    def kinds(self) -> set[tuple[str, str]]:
        return {(each["kind"], each["metadata"]["name"]) for each in self.objects}

    def get(self, kind: str, name: str = "") -> Object:
        """The object of a kind and name, or the only one of the kind."""
        (found,) = (o for o in self.objects if o["kind"] == kind and name in ("", o["metadata"]["name"]))
        return found

    def pod(self, kind: str) -> Object:
        return self.get(kind)["spec"]["template"]["spec"]

    def container(self, kind: str) -> Object:
        (container,) = self.pod(kind)["containers"]
        return container


class Helm:
    """One Helm, which knows no repository and reads nobody's settings."""

    def __init__(self, program: Path, home: Path) -> None:
        self.program = program
        self.home = home
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("HELM_", "KUBE"))},
            "HELM_CACHE_HOME": str(home / "cache"),
            "HELM_CONFIG_HOME": str(home / "config"),
            "HELM_DATA_HOME": str(home / "data"),
        }

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.program, *arguments], env=self.env, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"helm {' '.join(map(str, arguments))}:\n{done.stderr}"
        return done

    def values(self, values: Mapping[str, Any] | None) -> list[str | Path]:
        if not values:
            return []
        file = self.home / "values.yaml"
        file.write_text(yaml.safe_dump(dict(values)))
        return ["--values", file]

    def template(
        self, values: Mapping[str, Any] | None = None, *arguments: str | Path, release: str = "leasehold"
    ) -> Rendered:
        command = ["template", release, CHART, "--namespace", NAMESPACE, *self.values(values), *arguments]
        return Rendered(self.run(*command).stdout)

    def refusal(self, values: Mapping[str, Any], *arguments: str) -> str:
        """What Helm says when it does not render the chart."""
        command = ["template", "leasehold", CHART, *self.values(values), *arguments]
        done = self.run(*command, check=False)
        assert done.returncode != 0, "this was rendered"
        return done.stderr


@pytest.fixture(scope="session", params=["helm", "helm3"])
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Each Helm in turn: what holds, holds for both."""
    name = request.param
    directory = toolchain.build(toolchain.MODULES[name], [name])
    return Helm(directory / name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="session")
def helm4(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm 4 alone."""
    return Helm(toolchain.build(toolchain.HELM, ["helm"]) / "helm", tmp_path_factory.mktemp("helm4"))
