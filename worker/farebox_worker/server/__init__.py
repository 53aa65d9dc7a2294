"""The Redis servers that Farebox starts by itself."""
