"""Routes tasks to pools: each has a lease where it starts first, within bounds, and elsewhere when a pool fails.

    from leasehold.sdk import Client
    from leasehold.sdk.router import Router, Target

    async with Client() as here, Client(context="burst") as there:
        async with Router([Target(here, "ci"), Target(there, "burst")], concurrency=64) as router:
            async with router.lease(cpu="2", memory="4Gi", duration="10m") as lease:
                ...

The parts: `facts` is what is decided on, `choosing` decides about one task, `line` says whose turn it is, `circuit`
leaves alone what fails, `planning` puts these together, all pure; `verdicts` says whose fault a failure is; `targets`
keeps what is known, `jobs` what is asked for, `dispatch` does what was decided, and `router` is what its users see.
"""

from leasehold.sdk.request import TaskWish
from leasehold.sdk.router.choosing import Mode
from leasehold.sdk.router.circuit import CircuitRule, CircuitState
from leasehold.sdk.router.jobs import Offer, Outcome
from leasehold.sdk.router.line import TaskClass
from leasehold.sdk.router.router import Router
from leasehold.sdk.router.targets import Health, Target, TargetState

__all__ = [
    "CircuitRule",
    "CircuitState",
    "Health",
    "Mode",
    "Offer",
    "Outcome",
    "Router",
    "Target",
    "TargetState",
    "TaskClass",
    "TaskWish",
]
