"""A server that says what a test tells it to, for clients."""

from tests.scripted_server import certificate, script, server_tls

__all__ = ["certificate", "script", "server_tls"]
