"""The `eisbach` command: one file a subcommand."""
