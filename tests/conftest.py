"""Shared by all tests. The API server's fixtures come from the plugin leasehold.testing.plugin."""
