"""Real API servers for tests, the demo and benchmarks, and the pytest plugin that hands them out.

Start with `control_plane.ControlPlane`. This room may import every other one but `cli`; nothing imports it.
It starts processes on loopback only, ends only what it started, and never reads the user's own current
cluster.
"""
