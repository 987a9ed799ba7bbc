"""The page of a signature."""
