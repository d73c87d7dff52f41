"""What may be set about a running operator, with one prefix: `LEASEHOLD_`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Self

from leasehold.core.errors import LeaseholdError


class BadSetting(LeaseholdError):
    """Whoever started the operator set something it cannot use; the message names it."""


BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "http_port": (0, 65535),
    "webhook_port": (0, 65535),
    "writers": (1, 1000),
    "debounce_milliseconds": (0, 10_000),
    "sweep_seconds": (1, 86_400),
    "relist_sweeps": (1, 10_000),
    "events_per_second": (1, 1000),
    "overdue_ends_per_second": (1, 100_000),
    "election_seconds": (2, 300),
    "shards": (1, 64),
}
"""The least and the greatest value of each number; the chart refuses the others, too."""

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "log_level": ("DEBUG", "INFO", "WARNING", "ERROR"),
    "log_format": ("json", "text"),
    "enforcement": ("off", "on"),
    "kueue": ("off", "on"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one operator process. Each can be set as an environment variable, e.g. LEASEHOLD_WRITERS=16."""

    kubeconfig: str = ""
    """File to reach the cluster with; empty: the pod's service account."""

    http_host: str = "127.0.0.1"
    """Address of /metrics, /healthz and /readyz."""

    http_port: int = 8080
    """Port of the same; 0 takes a free one and logs it."""

    writers: int = 24
    """Requests under way to the API server at once; more than 32 were measured to add nothing."""

    debounce_milliseconds: int = 5
    """How long a pool's worker waits for more news before it decides."""

    sweep_seconds: int = 60
    """How often each pool's books are audited."""

    relist_sweeps: int = 10
    """Every so many sweeps everything is listed anew, and leases are compared with what the watch said."""

    events_per_second: int = 5
    """Kubernetes Events written per second at most; the rest are counted and dropped."""

    overdue_ends_per_second: int = 50
    """How many leases whose end is more than ten seconds overdue a pool ends in a second."""

    identity: str = ""
    """This replica's name in elections; empty: host name and a random part. One that is the same after a restart,
    such as the pod's name, takes its Leases back at once. No two replicas may have the same.
    """

    election_namespace: str = ""
    """Where the coordination Leases of the election are; empty: the pod's namespace, else leasehold-system."""

    election_seconds: int = 15
    """After so long without a renewal another replica takes over; a leader stops itself after two thirds of it."""

    shards: int = 1
    """Into how many parts pools are dealt; each part is led by one replica. The same for all replicas."""

    enforcement: str = "off"
    """Whether pools may hold pods to their leases: on needs the right to read, patch, evict and delete pods, and to
    patch nodes; off leaves them alone, and pools with another mode than Advisory grant nothing.
    """

    webhook: str = ""
    """The name of the MutatingWebhookConfiguration by which API servers ask about pods with a lease, and of the Secret
    with the certificate; empty: an admission policy does that, and the operator is not asked.
    """

    webhook_port: int = 9443
    """Port of the webhook, on the address of /metrics; 0 takes a free one."""

    placeholder_image: str = "registry.k8s.io/pause:3.10.1"
    """The image of pods that hold room and do nothing (pools with mode Placeholder)."""

    placeholder_priority_class: str = "leasehold-placeholder"
    """Their PriorityClass, unless a pool names another: above ordinary pods, with preemptionPolicy Never."""

    kueue: str = "off"
    """Whether Workloads of Kueue (0.15 or later) wait for leases, where an AdmissionCheck says so: on needs the right
    to read AdmissionChecks, ResourceFlavors and Workloads, to patch the status of checks and Workloads, and to create
    leases.
    """

    log_level: str = "INFO"
    """Least level of what is logged: DEBUG, INFO, WARNING or ERROR."""

    log_format: str = "json"
    """How they are written: json, or text for people."""

    def __post_init__(self) -> None:
        """Refuse what would hang or crash later, naming the setting."""
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise BadSetting(f"{_variable(name)} is {value}; it must be from {least} to {most}")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise BadSetting(f"{_variable(name)} is {value!r}; it must be one of {', '.join(choices)}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read every `LEASEHOLD_…` variable that names a setting. Raises BadSetting for a value of the wrong kind."""
        found: dict[str, str | int] = {}
        for field in fields(cls):
            name = _variable(field.name)
            text = environment.get(name)
            if text is None:
                continue
            if field.type == "int":
                if not text.isdecimal():
                    raise BadSetting(
                        f"{name}={text!r} is not a whole number; correct the operator's environment"
                    )
                found[field.name] = int(text)
            else:
                found[field.name] = text
        return cls(**found)  # type: ignore[arg-type]


def _variable(name: str) -> str:
    return f"LEASEHOLD_{name.upper()}"
