"""``python -m polarpix``: the command line where no ``polarpix`` program is on the path."""

from polarpix.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
