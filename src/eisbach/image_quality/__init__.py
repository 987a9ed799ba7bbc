"""Quality of generated images: features, distances between sets, FID and kin."""
