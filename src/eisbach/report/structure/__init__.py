"""The page of `eisbach analyze`, and the pictures of structure."""
