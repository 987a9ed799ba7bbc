"""Statistics for paired comparisons: tests, intervals, effect sizes, equivalence, verdicts."""
