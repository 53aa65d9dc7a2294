"""`farebox run`: a file of prompts through the bus, answered and paid to the cent, resumed when it is repeated.

`job` is the whole story from top to bottom, and `ask` what the flags say. Before a cent is spent, `plan` judges the
input, `forecast` bounds its cost and `misfits` finds what no budget lets through; `place` finds an earlier run again,
`retried` takes failed lines out of OUT. Then `feed` submits what is not done, a `crew` works, `follow` writes results
to OUT, syncs, and only then acknowledges; `sight` is what there is to see, `picture` draws it, `screen` shows it.
`finish` orders and copies what is complete.
"""
