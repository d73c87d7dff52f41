"""What a pool would have done: logs and traces replayed without a cluster.

It reads jobs, feeds them to `core.timeline` in the order of their times, and adds up what came out. It decides
nothing: who starts when, and where, is said by the same code that the operator runs.
"""
