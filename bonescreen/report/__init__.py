"""The report of a run: one HTML file, whose reviews come back as CSV."""
