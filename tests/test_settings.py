"""Settings from the environment: what is wrong is refused with its name."""

from __future__ import annotations

import pytest

from leasehold.settings import BadSetting, Settings


def test_nothing_need_be_set() -> None:
    assert Settings.from_environment({}) == Settings()


def test_every_setting_has_its_variable() -> None:
    found = Settings.from_environment(
        {
            "LEASEHOLD_WRITERS": "16",
            "LEASEHOLD_LOG_LEVEL": "DEBUG",
            "LEASEHOLD_HTTP_HOST": "0.0.0.0",
            "OTHER": "x",
        }
    )
    assert (found.writers, found.log_level, found.http_host) == (16, "DEBUG", "0.0.0.0")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WRITERS", "many", "not a whole number"),
        ("WRITERS", "-1", "not a whole number"),
        ("WRITERS", "0", "from 1 to 1000"),
        ("HTTP_PORT", "65536", "from 0 to 65535"),
        ("SWEEP_SECONDS", "0", "from 1"),
        ("EVENTS_PER_SECOND", "0", "from 1"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG"),
        ("LOG_FORMAT", "xml", "one of json, text"),
    ],
)
def test_what_would_hang_or_crash_later_is_refused_by_name(name: str, value: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words) as caught:
        Settings.from_environment({f"LEASEHOLD_{name}": value})
    assert f"LEASEHOLD_{name}" in str(caught.value)
