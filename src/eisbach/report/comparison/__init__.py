"""The page that sets sets side by side: of an analysis of audio, and of an experiment with its arms."""
