"""Decisions only: facts and `now` come in, a plan and "wake me at" go out.

No input or output, no clock, no randomness. Amounts are exact integers (millicores, bytes, counts) and times
are integer milliseconds since the epoch. `core` knows `api`; nothing else.
"""
