"""`farebox run`: a file of prompts through the bus, answered and paid to the cent, resumed when it is repeated.

`plan` judges the input before a cent is spent; `feed` submits what is not done; `follow` writes results to OUT, syncs,
and only then acknowledges; `screen` shows it; `job` is the whole story from top to bottom.
"""
