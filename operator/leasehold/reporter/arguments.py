"""A command line parser whose refusals are one line."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, instead of the whole usage before it, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        """End the process."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")
