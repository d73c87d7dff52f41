"""Borrowers who ask, renew, give back and go away, in the order that a seed says and at about the times they please."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from tests.cluster.harness import LEASES, Stage, micro_now

from leasehold.core.times import format_time
from leasehold.testing.client import Client
from leasehold.testing.errors import ApiError

_TERMS = (1, 1, 2, 3, 3600)
_SIZES = ("1", "1", "2", "3")


def told(lease: Mapping[str, Any]) -> bool:
    """Tell whether an operator has looked at a lease, and said so."""
    return bool((lease.get("status") or {}).get("conditions"))


class Churn:
    """Leases that come and go, from the beginning of a `with` block to its end. Failures of the API are borne.

    Of all that are asked for the share `later` wants to start some seconds later, and `parts` some of another lease.
    """

    def __init__(
        self,
        stage: Stage,
        pools: list[str],
        dice: random.Random,
        per_second: float = 10.0,
        most: int = 60,
        later: float = 0.15,
        parts: float = 0.15,
    ) -> None:
        self.stage = stage
        self.pools = pools
        self.dice = random.Random(dice.getrandbits(64))
        self.per_second = per_second
        self.most = most
        self.later = later
        self.parts = parts
        self.script: list[str] = []
        self.made = 0
        self.names: list[str] = []
        self._kube = Client(stage.control_plane.connection, timeout_seconds=5)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="churn", daemon=True)

    def __enter__(self) -> Churn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        self._kube.close()

    def _run(self) -> None:
        while not self._closing.wait(self.dice.expovariate(self.per_second)):
            with contextlib.suppress(ApiError, OSError, ValueError, http.client.HTTPException):
                self.step()

    def step(self) -> None:
        """Do one thing. Raises what the API raises."""
        choice = self.dice.random()
        if choice < 0.55 or not self.names:
            if self.made < self.most:
                self._ask()
            return
        name = self.dice.choice(self.names)
        if choice < 0.75:
            self._note("renew", name)
            self._change(name, {"spec": {"renewTime": micro_now()}})
        elif choice < 0.88:
            self._note("release", name)
            self._change(name, {"spec": {"desiredState": "Released"}})
        elif choice < 0.94:
            identity = f"holder-{self.dice.randrange(4)}"
            self._note("hand over", f"{name} to {identity}")
            self._change(name, {"spec": {"holder": {"identity": identity}}})
        else:
            self._note("delete", name)
            self.names.remove(name)
            self._kube.delete(LEASES, name, self.stage.namespace, missing_ok=True)

    def _ask(self) -> None:
        self.made += 1
        name = f"c{self.made}"
        spec: dict[str, Any] = {
            "poolRef": {"name": self.dice.choice(self.pools)},
            "resources": {"cpu": self.dice.choice(_SIZES)},
            "durationSeconds": self.dice.choice(_TERMS),
            "liveness": self.dice.choice(("None", "None", "Renew")),
        }
        if self.dice.random() < 0.2:
            spec |= {"count": 2}
        if self.dice.random() < 0.2:
            spec |= {"ttlSecondsAfterFinished": 1}
        if self.names and self.dice.random() < self.parts:
            del spec["poolRef"]
            spec |= {"parentRef": {"name": self.dice.choice(self.names)}}
        elif self.dice.random() < self.later:
            ahead = self.dice.uniform(1, 5)
            spec |= {"startTime": format_time(int((time.time() + ahead) * 1000))}
        self._note("ask", f"{name} {spec}")
        self.names.append(name)
        self._kube.create(
            {
                "apiVersion": "leasehold.dev/v1alpha1",
                "kind": "CapacityLease",
                "metadata": {"name": name, "namespace": self.stage.namespace},
                "spec": spec,
            }
        )

    def _change(self, name: str, patch: dict[str, Any]) -> None:
        self._kube.patch(LEASES, name, patch, self.stage.namespace)

    def _note(self, what: str, about: str) -> None:
        self.script.append(f"{what} {about}")
