from __future__ import annotations

import pytest

from loracle.text.quantities import show_bytes, show_duration, show_money, show_seconds, show_share, show_span


def test_times_read_as_people_say_them() -> None:
    assert [show_duration(x) for x in (5.0, 120.0, 7200.0)] == ["5 s", "2 min", "2.0 h"]
    assert show_span(20.0, 45.0) == "20 to 45 s"
    assert show_span(600.0, 610.0) == "10 min"
    assert [show_duration(x) for x in (0.3, 0.6, 1.0)] == ["under a second", "1 s", "1 s"]
    assert (show_span(0.1, 0.4), show_span(0.1, 3.0)) == ("under a second", "up to 3 s")
    assert show_span(0.1, 200.0) == "0 to 3 min"
    assert show_seconds(7.04) == "7.0"


@pytest.mark.parametrize(
    ("amount", "text"), [(0.0, "0.00"), (0.002, "0.002"), (0.07, "0.07"), (12.5, "12.50"), (1234.5, "1,234")]
)
def test_money_has_cents_where_they_count(amount: float, text: str) -> None:
    assert show_money(amount) == text


def test_memory_is_in_gib() -> None:
    assert [show_bytes(x * 2**30) for x in (0.6, 79.19)] == ["0.60 GiB", "79.2 GiB"]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *[(0.0, "0 %"), (0.004, "below 1 %"), (0.01, "1 %"), (0.57, "57 %")],
        (0.997, "above 99 %"),
        (1.0, "100 %"),
    ],
)
def test_a_share_is_rounded_neither_to_nothing_nor_to_all(share: float, text: str) -> None:
    assert show_share(share) == text
