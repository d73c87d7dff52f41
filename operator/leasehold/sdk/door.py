"""The one way to the API server: bounded requests, of which it is known when they were sent, and errors explained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from leasehold.adapters.kube.client import MERGE_PATCH, KubeClient
from leasehold.adapters.kube.errors import ApiError, Busy, NotFound, Refused, Unknown
from leasehold.sdk import errors
from leasehold.sdk.clock import now as _now

Json = dict[str, Any]

MANAGER: Final = "leasehold-sdk"
PATIENCE: Final = 15.0
"""How long one request may take (s), where nothing depends on it."""


class Door:
    """Requests to one API server. `now` is the holder's clock."""

    def __init__(self, kube: KubeClient, now: Callable[[], int] = _now) -> None:
        self.kube = kube
        self.now = now

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str | int] | None = None,
        content_type: str = "application/json",
        patience: float = PATIENCE,
    ) -> tuple[int, Json]:
        """Send a request; return when, by the holder's clock at the latest, it was not sent yet, and the answer.

        Raises ApiError; what takes longer than `patience` (s) is Unknown.
        """
        sent = self.now()
        try:
            async with asyncio.timeout(patience):
                answer = await self.kube.request(method, path, body, query=query, content_type=content_type)
        except TimeoutError as error:
            raise Unknown(f"{method} {path}: no answer within {patience:g} s") from error
        return sent, answer

    async def get(self, path: str, *, patience: float = PATIENCE) -> tuple[int, Json]:
        """Read one object from the API server's store."""
        return await self.ask("GET", path, patience=patience)

    async def create(self, path: str, body: Json, *, patience: float = PATIENCE) -> tuple[int, Json]:
        """Create an object."""
        return await self.ask("POST", path, body, query={"fieldManager": MANAGER}, patience=patience)

    async def patch(self, path: str, body: Json, *, patience: float = PATIENCE) -> tuple[int, Json]:
        """Change an object by a merge patch."""
        return await self.ask(
            "PATCH",
            path,
            body,
            query={"fieldManager": MANAGER},
            content_type=MERGE_PATCH,
            patience=patience,
        )

    async def delete(
        self, path: str, uid: str = "", *, version: str = "", patience: float = PATIENCE
    ) -> None:
        """Delete an object; with a uid and a resourceVersion, only if it is still that one."""
        conditions = {"uid": uid, "resourceVersion": version}
        conditions = {name: value for name, value in conditions.items() if value}
        body = {"preconditions": conditions} if conditions else None
        await self.ask("DELETE", path, body, patience=patience)

    async def list(
        self, path: str, labels: str = "", *, metadata_only: bool = False, patience: float = PATIENCE
    ) -> tuple[int, list[Json]]:
        """Read all objects with these labels from the API server's store."""
        sent = self.now()
        query = {"labelSelector": labels} if labels else {}
        try:
            async with asyncio.timeout(patience):
                items, _ = await self.kube.list(path, query, metadata_only=metadata_only)
        except TimeoutError as error:
            raise Unknown(f"GET {path}: no answer within {patience:g} s") from error
        return sent, items


def explained(error: ApiError, doing: str) -> errors.LeaseholdError:
    """Return what an answer means to a user of the SDK. `doing` completes "Could not …"."""
    text = f"Could not {doing}: {error}."
    if isinstance(error, (Unknown, Busy)):
        return errors.ServerUnavailable(text, "Is the API server within reach? Try again later.")
    if error.code == 401:
        return errors.NotConnected(text, "Log in again, or correct the credentials of the kubeconfig.")
    if error.code == 403:
        return errors.Forbidden(
            text,
            "Ask for the role leasehold-editor (or edit) in this namespace, and for get, create, patch and delete on"
            " leases.coordination.k8s.io.",
        )
    if isinstance(error, NotFound):
        if "could not find the requested resource" in str(error):
            return errors.BadConfig(text, "Is Leasehold installed in this cluster? Is it the right context?")
        if 'namespaces "' in str(error):
            return errors.BadConfig(text, "There is no such namespace: correct namespace=, or create it.")
        return errors.LeaseNotFound(text, "Correct the name, or the namespace.")
    if isinstance(error, Refused):
        return errors.Refused(text, "Correct what the message names.")
    return errors.LeaseholdError(text)
