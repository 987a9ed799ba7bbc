"""Blind listening tests: the page that listeners vote on, and what their votes say."""
