"""The experiments, one module for each theme. Every module here is part of the campaign."""
