"""The six verbs a worker speaks: one Python file and one Lua file each, every one atomic over many jobs.

`claim` takes due jobs, `admit` sets their worst-case cost aside, `settle` books what they cost and finishes them,
`renew` keeps their leases, `lapse` ends those of the dead; `sweep` finishes what a cancelled batch left waiting.
(`submit` is the producer's, in `farebox.batch`.) Nothing here knows a provider or a price.
"""
