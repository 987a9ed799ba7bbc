"""Training data: manifests, rendered and flat material, folders, checks and cached latents."""
