"""Measuring sets of clips: distances between them, and what only shows across seeds, prompts or a training set."""
