"""`python -m farebox_worker` is the command `farebox`."""

from farebox.__main__ import main

if __name__ == "__main__":
    main()
