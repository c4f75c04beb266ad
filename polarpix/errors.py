"""The one exception a user is meant to read."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input: one line that names the file or value and how to mend it.

    The command line prints the line and leaves with status 2; a library caller sees an ordinary ``ValueError``.
    """
