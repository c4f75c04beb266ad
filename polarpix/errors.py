"""The exceptions a user is meant to read."""

__all__ = ["InputError", "TerminatedError"]


class InputError(ValueError):
    """Bad input: one line that names the file or value and how to mend it.

    The command line prints the line and leaves with status 2; a library caller sees an ordinary ``ValueError``.
    """


class TerminatedError(BaseException):
    """The process was asked to end (SIGTERM) and did so in order; the line says what is kept.

    The command line prints the line and leaves with status 143, as shells report that signal. Like
    ``KeyboardInterrupt`` it is no ``Exception``: it may come at any moment, and is no fault of what it interrupts.
    """
