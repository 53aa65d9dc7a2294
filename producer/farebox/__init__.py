"""Farebox: a message bus for LLM calls where every job pays its fare."""
