"""What the names of keys, lanes and flows are made of."""

from __future__ import annotations

import pytest

from farebox.keys import parts_of_lane


@pytest.mark.parametrize(
    ("lane", "parts"),
    [
        ("openai:gpt-5", ("openai:gpt-5", "standard")),
        ("openai:gpt-5@flex", ("openai:gpt-5", "flex")),
        ("vertex:claude@20250101", ("vertex:claude@20250101", "standard")),
        ("vertex:claude@20250101@flex", ("vertex:claude@20250101", "flex")),
    ],
)
def test_a_model_whose_name_has_an_at_is_not_cut_at_it(lane, parts):
    assert parts_of_lane(lane) == parts
