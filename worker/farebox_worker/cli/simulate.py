"""`farebox simulate`: a local provider to rehearse with."""

from farebox_worker.cli.options import unread
from farebox_worker.simulate.command import command

simulate = unread("--config", "--data-dir", "--redis")(command)
