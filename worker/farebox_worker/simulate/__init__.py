"""A local OpenAI- and Anthropic-compatible server with latency, limits, faults and a bill of its own.

It is the judge of the money tests and a rehearsal for users, so it counts for itself: nothing in
this package may import anything else of farebox.
"""

from farebox_worker.simulate.options import Options
from farebox_worker.simulate.server import Simulator
from farebox_worker.simulate.serving import serve

__all__ = ["Options", "Simulator", "serve"]
