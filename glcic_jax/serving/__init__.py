"""A page and an HTTP endpoint in front of a `Completer`."""
