"""Every lease status that the core drafts in any of these tests is held to the models in `leasehold.api`."""

from __future__ import annotations

import pytest
from tests.builders import check_lease_status

from leasehold.core.status import Draft, Patch, apply_patch


@pytest.fixture(autouse=True)
def drafts_are_what_the_api_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = Draft.patch

    def checked(self: Draft) -> Patch:
        found = patch(self)
        check_lease_status(apply_patch(self.lease.status, found))
        return found

    monkeypatch.setattr(Draft, "patch", checked)
