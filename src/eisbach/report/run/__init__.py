"""A training run or an experiment while it runs, as a page."""
