"""One file a format: how adapter weights are named and stored there."""
