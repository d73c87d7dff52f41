"""Faults that are really delivered, a record of what came of them, and one checker of every record."""
