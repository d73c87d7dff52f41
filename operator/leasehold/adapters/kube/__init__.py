"""The door to the API server: requests, errors, and one lean list-and-watch."""
