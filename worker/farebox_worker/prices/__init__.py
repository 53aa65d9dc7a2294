"""What models there are and what a call of each costs: vendors' lists, what is laid over them, and the arithmetic."""
