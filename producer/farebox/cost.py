"""What calls have cost, as a client reads it."""

from __future__ import annotations

import msgspec

from farebox.money import usd_from_nusd


class Cost(msgspec.Struct, frozen=True):
    """A money counter at one moment, in nano-dollars (1e-9 USD) and in dollars.

    `limit_nusd` is None where there is no limit. spent + held + unconfirmed never passes it.
    """

    spent_nusd: int
    held_nusd: int
    unconfirmed_nusd: int
    limit_nusd: int | None

    @property
    def spent_usd(self) -> float:
        """What calls have cost, in dollars."""
        return usd_from_nusd(self.spent_nusd)

    @property
    def held_usd(self) -> float:
        """What running calls may cost at most, in dollars."""
        return usd_from_nusd(self.held_nusd)

    @property
    def unconfirmed_usd(self) -> float:
        """What calls of unknown outcome may have cost at most, in dollars."""
        return usd_from_nusd(self.unconfirmed_nusd)

    @property
    def limit_usd(self) -> float | None:
        """The limit in dollars, None without one."""
        return None if self.limit_nusd is None else usd_from_nusd(self.limit_nusd)
