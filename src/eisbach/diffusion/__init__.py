"""Noising paths, targets, training densities, schedules, samplers and guidance: the words of diffusion, in one
notation."""
