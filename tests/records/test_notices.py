from __future__ import annotations

from loracle.records.notices import Notice, as_json, gathered


def test_notices_are_shown_once_data_first() -> None:
    model = Notice("model", "frozen", "the experts are not trained", 8)
    data = Notice("data", "rows_too_long", "3 rows are left out", 3)
    assert gathered([model], [data, model]) == (data, model)
    assert as_json([data]) == [
        {"about": "data", "name": "rows_too_long", "text": "3 rows are left out", "count": 3}
    ]
