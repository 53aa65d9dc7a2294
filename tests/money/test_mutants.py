"""The mutants of the money machine are of the Lua that is there; `make mutants` plays against them."""

import pytest
from tests.money.mutants import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.breaks}")
def test_a_mutant_finds_the_place_that_it_changes_once(mutant):
    assert mutant.source.count(mutant.text) == 1, "the Lua has changed: find the place where this breaks it now"
    assert mutant.text != mutant.instead


def test_every_mutant_breaks_something_else():
    assert len({(mutant.file, mutant.breaks) for mutant in MUTANTS}) == len(MUTANTS)
