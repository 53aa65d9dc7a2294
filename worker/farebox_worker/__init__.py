"""What executes: the bus, adapters, prices and the command line. Install it as `farebox[worker]`."""
