"""The command ``leasehold``. It chooses what runs and imports nothing else before it has."""
