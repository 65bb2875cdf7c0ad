"""Data sets as they are published, and as people keep their own."""
