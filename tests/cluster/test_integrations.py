"""The examples of examples/integrations, run as their readers would run them, with a real operator."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml
from tests.cluster.harness import LEASES, SMALL, Stage, finished, is_, until

from leasehold.testing.errors import ApiError
from leasehold.testing.processes import Child

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "integrations"
BATCHES = "batches.example.com"


@pytest.fixture
def pool(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> str:
    """A pool of 4 cpu, and an environment in which the examples find it."""
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy={"heartbeatTimeoutSeconds": 60, "claimTimeoutSeconds": 60})
    for name, value in environment(stage, pool).items():
        monkeypatch.setenv(name, value)
    return pool


def environment(stage: Stage, pool: str) -> dict[str, str]:
    """A kubeconfig whose current context names the stage's namespace."""
    document = yaml.safe_load(stage.control_plane.kubeconfig.read_text())
    for context in document["contexts"]:
        context["context"]["namespace"] = stage.namespace
    mine = stage.control_plane.directory / f"kubeconfig-{stage.namespace}"
    mine.write_text(yaml.safe_dump(document))
    return {"KUBECONFIG": str(mine), "LEASEHOLD_POOLS": pool}


@contextlib.contextmanager
def example(name: str) -> Iterator[ModuleType]:
    """Import an example as a module of its own."""
    spec = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


def leases(stage: Stage) -> list[dict[str, Any]]:
    return stage.kube.list(LEASES, stage.namespace)


def all_given_back(stage: Stage) -> bool:
    return all(finished(lease) for lease in leases(stage))


# --- an asyncio worker pool ---


async def test_the_worker_pool_runs_every_command_under_a_lease_of_its_own(
    stage: Stage, pool: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    commands = [f'echo "{i} $LEASEHOLD_NODES $LEASEHOLD_TOKEN" >> {out}' for i in range(20)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / "worker_pool.py"),
        *("--cpu", "1", pool),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate("\n".join([*commands, "exit 3"]).encode())
    assert process.returncode == 1, said.decode()  # one command failed
    ran = [line.split() for line in out.read_text().splitlines()]
    assert sorted(int(number) for number, *_ in ran) == list(range(20))
    assert {node for _, node, _ in ran} == set(stage.nodes.names)
    assert len({token for *_, token in ran}) == 20
    await asyncio.to_thread(until, lambda: all_given_back(stage), "all is given back")


# --- Dramatiq ---


def test_each_task_of_a_dramatiq_worker_holds_a_lease_and_a_lost_one_is_tried_again(
    stage: Stage, pool: str
) -> None:
    import dramatiq

    with example("dramatiq_worker") as module:
        worker = dramatiq.Worker(module.broker, worker_threads=4, worker_timeout=50)
        worker.start()
        try:
            for frame in range(12):
                module.render.send(frame)
            module.broker.join("default", timeout=60_000)
            worker.join()
            assert sorted(module.rendered) == list(range(12))
            assert module.rendered[0].startswith(f"frame 0 on {stage.nodes.names[0]}")
            assert len(leases(stage)) == 12
            until(lambda: all_given_back(stage), "all is given back")

            # One that waits for its turn when its lease is deleted is tried again by Dramatiq.
            others = [stage.lease(pool, cpu="4")]
            stage.until(others[0], is_("Allocated"))
            before = {lease["metadata"]["name"] for lease in leases(stage)}
            module.render.send(99)
            until(lambda: len(leases(stage)) > len(before), "it asks")
            (asked,) = {lease["metadata"]["name"] for lease in leases(stage)} - before
            stage.kube.delete(LEASES, asked, stage.namespace)
            stage.change(others[0], desiredState="Released")
            until(lambda: 99 in module.rendered, "it is rendered all the same")
        finally:
            worker.stop()
        until(lambda: all_given_back(stage), "all is given back")


# --- FastAPI ---


async def test_the_service_takes_leases_by_class_and_says_when_to_come_again(stage: Stage, pool: str) -> None:
    with example("fastapi_service") as module:
        impatient = module.PATIENCE["interactive"]
        module.PATIENCE["interactive"] = "30s"  # the first looks at pools and opens connections, too
        transport = httpx.ASGITransport(app=module.app)
        async with (
            module.app.router.lifespan_context(module.app),
            httpx.AsyncClient(transport=transport, base_url="http://service", timeout=90) as http,
        ):
            found = (await http.get("/answer", params={"question": "abc"})).raise_for_status().json()
            assert found["answer"] == "cba"
            assert found["nodes"] == stage.nodes.names
            assert (await http.get("/healthz")).json() == {"status": "ok"}

            # Reports: two at once, however many come.
            gate, sending = asyncio.Event(), 0

            async def slowly() -> Any:
                nonlocal sending
                sending += 1
                yield b"12345"
                await gate.wait()
                yield b"678"

            router = module.app.state.router
            reports = [asyncio.create_task(http.post("/report", content=slowly())) for _ in range(3)]
            await eventually(lambda: router.targets()[0].running == 2, "two reports are made")
            assert router.waiting == 1
            module.PATIENCE["interactive"] = impatient
            # The pool is full, so who asks hears when to come again.
            refused = await http.get("/answer", params={"question": "abc"})
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "5"
            (row,) = (await http.get("/targets")).json()
            assert (row["name"], row["health"], row["running"]) == (pool, "Healthy", 2)
            gate.set()
            for report in reports:
                assert (await report).json()["bytes"] == 8

            stage.change_pool(pool, stopPolicy="Hold")
            await asyncio.to_thread(stage.until_pool, pool, is_("Ready", "False"))
            ill = await http.get("/healthz")
            assert (ill.status_code, ill.json()["detail"]) == (503, f"{pool}: Sick")
    await asyncio.to_thread(until, lambda: all_given_back(stage), "all is given back")


async def eventually(test: Any, what: str, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not test():
            await asyncio.sleep(0.05)


# --- kopf ---


@contextlib.contextmanager
def controller(stage: Stage, log: str) -> Iterator[Child]:
    child = Child(
        [
            *(sys.executable, "-m", "kopf", "run", str(EXAMPLES / "kopf_controller.py")),
            *("--namespace", stage.namespace, "--standalone"),
        ],
        log=stage.control_plane.directory / f"{stage.namespace}-{log}.log",
        cwd=Path.cwd(),
        env=dict(os.environ),
    )
    try:
        yield child
    finally:
        child.kill()


def batch(stage: Stage, name: str, **spec: Any) -> None:
    stage.kube.create(
        {
            "apiVersion": "example.com/v1",
            "kind": "Batch",
            "metadata": {"name": name, "namespace": stage.namespace},
            "spec": {"cpu": "3", **spec},
        }
    )


def test_a_kopf_controller_leases_for_its_objects_and_comes_back_to_its_leases(
    stage: Stage, pool: str
) -> None:
    with contextlib.suppress(ApiError):  # another test of this process made it
        stage.kube.create(yaml.safe_load((EXAMPLES / "batch-crd.yaml").read_text()))
    stage.kube.wait_established(["batches.example.com"])

    def held() -> list[dict[str, Any]]:
        return [lease for lease in leases(stage) if is_("Ready")(lease)]

    def get(name: str) -> dict[str, Any]:
        return stage.kube.get(BATCHES, name, stage.namespace)

    try:
        with controller(stage, "first") as first:
            until(first.running, "it runs")
            batch(stage, "quick", seconds=0)
            until(lambda: get("quick").get("status", {}).get("phase") == "Done", "the quick one is done", 60)
            assert get("quick")["status"]["nodes"] == stage.nodes.names
            until(lambda: all_given_back(stage), "the quick one has given back")
            batch(stage, "long", seconds=3600)
            until(lambda: len(held()) == 1, "the long one holds a lease")
            batch(stage, "next", seconds=0)
            until(
                lambda: any(event["reason"] == "WaitsForLease" for event in stage.events("next")),
                "an Event says what the next one waits for",
            )
            (before,) = held()
            first.kill()
        with controller(stage, "second") as second:
            taken_over = stage.until(
                before["metadata"]["name"],
                lambda lease: lease["status"]["fencingToken"] > before["status"]["fencingToken"],
                60,
            )
            assert taken_over["metadata"]["uid"] == before["metadata"]["uid"]
            stage.kube.delete(BATCHES, "long", stage.namespace)
            until(lambda: get("next").get("status", {}).get("phase") == "Done", "the next one is done", 60)
            until(lambda: stage.kube.find(BATCHES, "long", stage.namespace) is None, "it is gone")
            second.stop(20)
        until(lambda: all_given_back(stage), "all is given back")
    finally:
        for found in stage.kube.list(BATCHES, stage.namespace):
            name = found["metadata"]["name"]
            stage.kube.patch(BATCHES, name, {"metadata": {"finalizers": None}}, stage.namespace)
            stage.kube.delete(BATCHES, name, stage.namespace, missing_ok=True)
