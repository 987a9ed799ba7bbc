"""Studies: a claim each, with what decides it."""
