"""Recoverability weighting on small image models."""
