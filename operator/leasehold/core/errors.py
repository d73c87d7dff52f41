"""The errors of Leasehold, named by whose fault they are.

LeaseholdError
├── InvalidObject       the object's author: a field holds something the API would refuse
└── LedgerBroken        ours: the books do not balance; a bug to report
"""


class LeaseholdError(Exception):
    """Base of every error that Leasehold raises on purpose."""


class InvalidObject(LeaseholdError):
    """An object's author wrote something that cannot be acted on; the message says what and where."""


class LedgerBroken(LeaseholdError):
    """The in-memory books do not balance. This is a bug in Leasehold, not in anybody's manifest."""
