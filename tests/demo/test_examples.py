from __future__ import annotations

from pathlib import Path

import pytest

from leasehold.demo.errors import DemoError
from leasehold.demo.examples import LABEL, NAMESPACE, load, staged


def test_an_example_is_played_labelled_and_in_the_demos_namespace() -> None:
    for document in staged("07-session.yaml"):
        assert LABEL in document["metadata"]["labels"]
        assert document["metadata"]["namespace"] == NAMESPACE


def test_labels_of_the_example_stay() -> None:
    (session, *_) = staged("07-session.yaml")
    assert "leasehold.dev/session" in session["metadata"]["labels"]


def test_terms_are_shortened_and_the_rest_stays() -> None:
    (pool,) = staged("02-pool.yaml", terms={"gracePeriodSeconds": 1})
    (as_written,) = load("02-pool.yaml")
    assert pool["spec"]["leasePolicy"].pop("gracePeriodSeconds") == 1
    as_written["spec"]["leasePolicy"].pop("gracePeriodSeconds")
    assert pool["spec"] == as_written["spec"]


def test_documents_are_chosen_and_renamed() -> None:
    only = staged("03-builds.yaml", only=("build-2",), renamed={"build-2": "again"}, lease={"count": 2})
    (lease,) = only
    assert (lease["metadata"]["name"], lease["spec"]["count"]) == ("again", 2)


def test_without_a_checkout_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="Run it from one"):
        list(load("02-pool.yaml", tmp_path))
