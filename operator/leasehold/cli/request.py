"""What was asked for on the command line, as a CapacityLease."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import socket
from typing import Any, Final

from leasehold.cli.cluster import API, LEASES
from leasehold.cli.options import CliError

Json = dict[str, Any]

LOOK_SECONDS: Final = 10
"""How long the operator may take to look, where nobody wants to wait for room."""

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def amounts(options: argparse.Namespace) -> dict[str, str]:
    """Return what one slice is to hold. Raises CliError where nothing was said, or not in amounts."""
    from leasehold.api.quantity import QuantityError, amount

    found = {name: text for name, text in (("cpu", options.cpu), ("memory", options.memory)) if text}
    for row in options.resource:
        name, equals, text = row.partition("=")
        if not (equals and name and text):
            raise CliError(f"--resource {row!r} is not NAME=AMOUNT, as in ephemeral-storage=10Gi", 2)
        found[name] = text
    if not found:
        raise CliError("say how much: --cpu 2, --memory 4Gi or --resource NAME=AMOUNT", 2)
    for name, text in found.items():
        try:
            amount(name, text)
        except QuantityError as error:
            raise CliError(f"{name}: {error}", 2) from error
    return found


def lease_of(options: argparse.Namespace, namespace: str, **spec: Any) -> Json:
    """Return the object to create. Raises CliError where the options do not say enough."""
    if not options.pool and not options.pool_selector:
        raise CliError(
            "say from which pool: --pool NAME or --pool-selector LABELS; see `leasehold get pools`", 2
        )
    name = getattr(options, "name", "")
    if name and not _NAME.fullmatch(name):
        raise CliError(f"{name!r} cannot be a name: use lower case letters, digits, - and .", 2)
    asked: Json = {
        "resources": amounts(options),
        "count": options.count,
        "priority": options.priority,
        "holder": {"identity": (options.holder or identity())[:253]},
        **spec,
    }
    if options.pool:
        asked["poolRef"] = {"name": options.pool}
    else:
        asked["poolSelector"] = {"matchLabels": options.pool_selector}
    if options.duration is not None:
        asked["durationSeconds"] = options.duration
    if options.tenant:
        asked["tenant"] = options.tenant
    placement: Json = {}
    if options.placement:
        placement["mode"] = options.placement
    if options.topology_key:
        placement["topologyKey"] = options.topology_key
    if options.node_selector:
        placement["nodeSelector"] = options.node_selector
    if placement:
        asked["placement"] = placement
    return {
        "apiVersion": API,
        "kind": LEASES.kind,
        # A name of ours, not of the server's: by it a request is withdrawn whose answer was lost.
        "metadata": {"namespace": namespace, "name": name or f"cli-{os.urandom(4).hex()}"},
        "spec": asked,
    }


def identity() -> str:
    """Return who asks, for people to read: the user and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
