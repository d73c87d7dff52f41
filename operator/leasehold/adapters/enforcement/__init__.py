"""Holding pods to their leases: who looks after them, and what is written."""
