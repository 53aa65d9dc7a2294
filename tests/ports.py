"""Ports of 127.0.0.1 for servers that a test starts."""

import random
import socket
from contextlib import suppress


def free_port():
    """Find a port below those the system hands out: nobody takes it meanwhile, and a cluster's bus fits above it."""
    while True:
        port = random.SystemRandom().randint(11_000, 22_000)
        with socket.socket() as taken, suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port
