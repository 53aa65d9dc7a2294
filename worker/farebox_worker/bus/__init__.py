"""The verbs a worker speaks: one Python file and one Lua file each, every one atomic over many jobs.

Of a job: `claim` takes due ones, `admit` sets their worst-case cost aside, `settle` books what they cost and finishes
them, `renew` keeps their leases, `lapse` ends those of the dead, `move` lets them wait in another lane, `withdraw`
forgets those that nobody wants any more, `reassert` tells a ledger that lost writes what runs. Of a lane: `pause`,
`blame`, `tune` and its `pace`. Housekeeping, slice by slice: `sweep` finishes what a cancelled batch left waiting,
`expire` what is too late, `fold` sums up old bookings. (`submit` is the producer's, in `farebox.batch`.) Nothing here
knows a provider or a price.
"""
