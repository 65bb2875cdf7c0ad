"""De-identified copies of studies, for a colleague or a data set."""
