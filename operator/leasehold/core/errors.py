"""The errors of Leasehold, named by whose fault they are.

LeaseholdError
└── InvalidObject       the object's author: a field holds something the API would refuse
"""


class LeaseholdError(Exception):
    """Base of every error that Leasehold raises on purpose."""


class InvalidObject(LeaseholdError):
    """An object's author wrote something that cannot be acted on; the message says what and where."""
