"""Quarters in German local time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.gateway.quarter import earliest_issue

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "start",
    [
        "2026-12-31T23:00:00+00:00",
        "2027-03-31T22:00:00+00:00",
        "2027-06-30T22:00:00+00:00",
        "2027-09-30T22:00:00+00:00",
    ],
)
def test_quarter_begins_at_german_midnight_and_the_old_one_has_five_minutes(start: str) -> None:
    moment = datetime.fromisoformat(start).timestamp()
    assert earliest_issue(moment + 300) == moment
    assert earliest_issue(moment + 299.9) < moment
    assert earliest_issue(moment - 1) < moment


@given(st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)))
def test_earliest_issue_is_the_start_of_the_quarter_of_five_minutes_ago(naive: datetime) -> None:
    now = naive.replace(tzinfo=UTC)
    local = (now - timedelta(minutes=5)).astimezone(BERLIN)
    expected = datetime(local.year, (local.month - 1) // 3 * 3 + 1, 1, tzinfo=BERLIN)
    assert earliest_issue(now.timestamp()) == expected.timestamp()
