"""How tests are dealt out to processes: as xdist does it, and all that share something dear to the same one.

`--dist loadgroup` keeps tests together, too, and deals out all others one by one: then both processes make what the
tests of a module share, one after the other, and tests that look at the whole machine meet their neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

TOGETHER = ("tests/enforcement/", "tests/docs/test_code_blocks.py")
"""Directories and files whose tests share a control plane with all its parts: whoever gets one test gets them all."""


class Together(LoadScheduling):
    """Deals out tests in batches of neighbours; a batch that has one test of such a directory has all of them."""

    def _send_tests(self, node: WorkerController, num: int) -> None:
        batch = self.pending[:num]
        shared = {self._place(index) for index in batch} - {None}
        batch += [index for index in self.pending[num:] if self._place(index) in shared]
        taken = set(batch)
        self.pending[:] = [*batch, *(index for index in self.pending if index not in taken)]
        super()._send_tests(node, len(batch))

    def _place(self, index: int) -> str | None:
        assert self.collection is not None
        return next((place for place in TOGETHER if self.collection[index].startswith(place)), None)
