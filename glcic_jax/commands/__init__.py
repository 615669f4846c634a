"""The `glcic` command, one file a subcommand."""
