"""What kopf calls: each handler notes what it was told and returns. No decision, no request."""
