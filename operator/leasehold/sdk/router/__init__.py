"""Routes tasks to pools: each gets a lease where it starts first, within bounds, and elsewhere when a pool fails."""
