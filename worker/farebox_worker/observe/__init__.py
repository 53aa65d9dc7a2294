"""What others may see of a process and of the fleet, over HTTP: metrics, and whether it works."""
