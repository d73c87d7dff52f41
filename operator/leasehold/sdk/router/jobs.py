"""A request for a lease: what may be asked for, what becomes of it, and how it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leasehold.sdk.errors import LeaseholdError, LeaseLost
from leasehold.sdk.router.facts import Task
from leasehold.sdk.router.targets import Post

if TYPE_CHECKING:
    from leasehold.sdk.asking import OnProgress
    from leasehold.sdk.lease import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a task's lease ended.

    `waited` and `held` are seconds: from the request to the grant, and from then on. `error` is what came out of the
    block, None where it ended well; it is a LeaseLost where the lease was lost.
    """

    target: str
    task_class: str
    waited: float
    held: float
    error: BaseException | None = None

    @property
    def lost(self) -> bool:
        """Whether the lease was lost before it was given back."""
        return isinstance(self.error, LeaseLost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a target could do for a task now. Nothing is kept.

    `start_in` is in how many seconds it could start, None where that is not known; `load` is how full its pool would be
    with it, in hundredths.
    """

    target: str
    usable: bool
    start_in: float | None
    load: int


Hook = Callable[["Lease", Outcome], Awaitable[None] | None]


@dataclass(eq=False, slots=True)
class Job:
    """One request, from its call to its end."""

    task: Task
    wish: dict[str, Any]
    key: str | None
    deadline: int | None
    callbacks: dict[str, Any]
    on_progress: OnProgress
    asked: int
    turn: asyncio.Future[Post]
    back: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: LeaseholdError | None = None
    heard: bool = False
    stuck: bool = False
    seen_off: asyncio.Task[None] | None = None
