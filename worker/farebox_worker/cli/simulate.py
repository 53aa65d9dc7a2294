"""`farebox simulate`: a local provider to rehearse with."""

from farebox_worker.simulate.command import command as simulate

__all__ = ["simulate"]
