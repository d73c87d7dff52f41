"""What travels on the wire: the kinds of ``leasehold.dev/v1alpha1``, their names, and Kubernetes quantities.

This room holds values and pure functions. It does no I/O, reads no clock and imports nothing of Leasehold but
itself.
``names`` and ``quantity`` need the standard library only; the models need pydantic.
"""
