"""A command line parser whose refusals are one line."""

import argparse
from typing import Final, NoReturn

WIDTH: Final = 100


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, instead of the whole usage before it, and exits with 2."""

    def _get_formatter(self) -> argparse.HelpFormatter:
        # Told no width, argparse asks shutil for it with every option, and that loads every compressor there is.
        return argparse.RawDescriptionHelpFormatter(self.prog, width=WIDTH)

    def error(self, message: str) -> NoReturn:
        """End the process."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")
