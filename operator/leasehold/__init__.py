"""Leasehold lends out a Kubernetes cluster's capacity for a time."""

__version__ = "0.1.0"
