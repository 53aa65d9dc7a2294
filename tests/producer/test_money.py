"""Money is integers: what goes in comes out, and rounding never favours us."""

from decimal import Decimal

import pytest

from farebox.money import dollars, dollars_from_nusd, nusd_from_pusd, nusd_from_usd, pusd_per_token


@pytest.mark.parametrize(
    ("usd", "nusd"),
    [(0.1, 100_000_000), ("0.0000000001", 1), (Decimal("1.5"), 1_500_000_000), (20, 20_000_000_000), (0, 0)],
)
def test_dollars_become_nano_dollars_rounded_up(usd, nusd):
    assert nusd_from_usd(usd) == nusd


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "ten", 10**8, float("inf")])
def test_what_is_no_amount_is_refused(wrong):
    with pytest.raises(ValueError, match="dollars"):
        nusd_from_usd(wrong)


def test_rates_are_exact_and_costs_round_up():
    assert pusd_per_token("0.025") == 25_000
    assert [nusd_from_pusd(pusd) for pusd in (0, 1, 999, 1000, 1001)] == [0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (5, "$5.00"),
        (5.256, "$5.26"),
        (0, "$0.00"),
        (0.5, "$0.50"),
        (0.0042, "$0.0042"),
        (1234.5, "$1,234.50"),
        (-2, "-$2.00"),
    ],
)
def test_people_see_cents(usd, text):
    assert dollars(usd) == text


def test_a_fraction_of_a_cent_is_not_shown_as_nothing():
    assert dollars_from_nusd(1) == "$0.000000001"
