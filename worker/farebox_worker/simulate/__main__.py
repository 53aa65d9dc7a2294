"""`python -m farebox_worker.simulate` is the command `farebox simulate`."""

from farebox_worker.simulate.command import command

if __name__ == "__main__":
    command()
