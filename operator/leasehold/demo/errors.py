"""What can go wrong in the demo, by whose fault it is."""

from leasehold.core.errors import LeaseholdError


class DemoError(LeaseholdError):
    """Base of what the demo raises on purpose; the message says what to do."""


class NotAsExpected(DemoError):
    """The API server does not say what the story promises: a bug in Leasehold, or a machine that is far too slow."""


class PartEnded(DemoError):
    """A process of the demo ended by itself; the message ends with its log."""


class NotWelcome(DemoError):
    """The cluster, or its owner, does not want the demo: no consent, or names that are taken."""
