"""The only rooms with effects: the API server, the host, the clock, metrics, logs.

Nothing is decided here. Each outside library has one door: kopf in `handlers` and `login`, psutil in `host`,
prometheus_client in `metrics`, aiohttp in `kube` and `http`.
"""
