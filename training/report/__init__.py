"""The page and the JSON that an evaluation leaves behind."""
