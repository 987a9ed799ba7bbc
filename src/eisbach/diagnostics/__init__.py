"""Probes that look inside a run."""
