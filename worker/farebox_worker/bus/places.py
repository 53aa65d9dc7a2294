"""Numbers the scopes of a group of jobs: a script is given each name once, and of each job the places of its own."""

from __future__ import annotations


class Places:
    """The scopes of one call, in the order in which they were first named.

    Attributes:
        scopes: each name with its place, from 1.
    """

    def __init__(self) -> None:
        self.scopes: dict[str, int] = {}
        self._known: dict[tuple[str, ...], str] = {}

    def of(self, scopes: tuple[str, ...]) -> str:
        """Write the places of a job's scopes, each once, as the scripts read them: `1,2,5`."""
        known = self._known.get(scopes)
        if known is None:
            places = [self.scopes.setdefault(scope, len(self.scopes) + 1) for scope in dict.fromkeys(scopes)]
            known = self._known[scopes] = ",".join(map(str, places))
        return known
