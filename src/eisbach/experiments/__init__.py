"""Arms trained, played, measured and compared: specification, runner, records, statistics and verdicts."""
