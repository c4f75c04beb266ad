"""The command line: a command is a typed function, a page option is any key of a page (``--optim.lr 0.001``)."""

from __future__ import annotations

import argparse
import difflib
import errno
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from polarpix import commands
from polarpix.bench import commands as bench
from polarpix.errors import InputError
from polarpix.export import commands as exporting

__all__ = ["BENCHES", "COMMANDS", "GROUPS", "main"]

COMMANDS: dict[str, Callable[..., int]] = {
    "train": commands.train,
    "eval": commands.evaluate,
    "predict": commands.predict,
    "export": exporting.export,
    "models": commands.models,
    "info": commands.info,
    "demo": commands.demo,
}
BENCHES: dict[str, Callable[..., int]] = {
    "block": bench.block,
    "model": bench.model,
    "kernels": bench.kernels,
    "export": bench.export,
    "accuracy": bench.accuracy,
}
# First word -> what its commands are about, and the commands.
GROUPS: dict[str, tuple[str, Mapping[str, Callable[..., int]]]] = {
    "bench": ("Measure time and memory of blocks, networks and kernels, and what attention gains.", BENCHES),
}

ABOUT = "Keypoints and segmentation masks with polarized self-attention."
# What is wrong with the place that something should be written to.
NO_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)
HELP = ("-h", "--help", "help")
PAGE_HELP = (
    "Any key of the page can follow as an option: --optim.lr 0.001 --eval.flip_test false "
    "('polarpix info pose' and 'polarpix info seg' list them)."
)


def summary(command: Callable[..., int]) -> str:
    """The first line of a command's docstring."""
    return (inspect.getdoc(command) or "").splitlines()[0]


def argument_help(command: Callable[..., int]) -> dict[str, str]:
    """Parameter -> its text in the docstring's Args section."""
    text = (inspect.getdoc(command) or "").partition("Args:")[2]
    found = re.findall(r"^    (\w+): (.+?)(?=\n    \w+: |\n\S|\Z)", text, flags=re.M | re.S)
    return {name: " ".join(words.split()) for name, words in found}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are lines like all others."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}: '{self.prog} --help' explains the command")


def command_of(name: str) -> Callable[..., int]:
    """The function of a command, "train" or "bench block"."""
    group, _, word = name.rpartition(" ")
    return GROUPS[group][1][word] if group else COMMANDS[name]


def command_parser(name: str) -> Parser:
    """A parser made from a command's signature.

    A parameter without default, or one before "/", is positional; a list takes several; a bool is a flag.
    """
    command = command_of(name)
    texts = argument_help(command)
    takes_page = "options" in inspect.signature(command).parameters
    parser = Parser(
        prog=f"polarpix {name}",
        description=summary(command),
        epilog=PAGE_HELP if takes_page else None,
        allow_abbrev=False,
    )
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "options":
            continue
        kind = str(parameter.annotation)
        flag = flag_of(parameter.name)
        settings: dict[str, Any] = {"help": texts.get(parameter.name)}
        if kind == "bool":
            parser.add_argument(flag, action="store_true", **settings)
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            parser.add_argument(parameter.name, nargs="?", default=parameter.default, **settings)
        elif parameter.default is parameter.empty:
            parser.add_argument(parameter.name, nargs="+" if kind.startswith("list") else None, **settings)
        else:
            number = {"int": int, "float": float}.get(kind.removesuffix(" | None"), str)
            parser.add_argument(flag, default=parameter.default, type=number, **settings)
    return parser


def flag_of(parameter: str) -> str:
    """print_config -> --print-config."""
    return "--" + parameter.replace("_", "-")


def split_options(name: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command's own arguments, and the page options among them with their values, wherever they stand."""
    parameters = inspect.signature(command_of(name)).parameters.values()
    own = {"--help", *(flag_of(one.name) for one in parameters if one.default is not one.empty)} - {"--options"}
    rest: list[str] = []
    options: list[str] = []
    value_follows = False
    for argument in arguments:
        if argument.startswith("--") and argument.partition("=")[0] not in own:
            options.append(argument)
            value_follows = "=" not in argument
        elif value_follows and not argument.startswith("--"):
            options.append(argument)
            value_follows = False
        else:
            rest.append(argument)
            value_follows = False
    return rest, options


def joined(arguments: Sequence[str]) -> list[str]:
    """``--boxes -5,0,30,40`` as ``--boxes=-5,0,30,40``: a parser takes what begins with a dash for an option."""
    words: list[str] = []
    for argument in arguments:
        if re.match(r"-[\d.]", argument) and words and re.fullmatch(r"--[^=]+", words[-1]):
            words[-1] += f"={argument}"
        else:
            words.append(argument)
    return words


def usage(group: str = "") -> str:
    """The help of the program itself, or of a group of commands."""
    about, table = GROUPS[group] if group else (ABOUT, COMMANDS)
    lines = {name: summary(command) for name, command in table.items()}
    lines |= {} if group else {name: text for name, (text, _) in GROUPS.items()}
    rows = "\n".join(f"  {name:<9}{text}" for name, text in lines.items())
    call = f"polarpix {group} COMMAND" if group else "polarpix COMMAND"
    return f"usage: {call} ...\n\n{about}\n\ncommands:\n{rows}\n\n'{call} --help' explains a command.\n"


def find_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command a line begins with, "train" or "bench block", and the words that follow; a group alone is its name.

    Raises:
        InputError: a word that is no command.
    """
    name, *rest = arguments
    choices = [*COMMANDS, *GROUPS]
    if name in GROUPS:
        if not rest or rest[0] in HELP:
            return name, []
        choices, group = list(GROUPS[name][1]), f"{name} "
        name, *rest = rest
    else:
        group = ""
    if name not in choices:
        near = difflib.get_close_matches(name, choices, n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(choices)}"
        raise InputError(f"no command {group + name!r}: {mend}")
    return group + name, rest


def run(arguments: Sequence[str]) -> int:
    """Dispatch one command line; gives the exit status."""
    if not arguments or arguments[0] in HELP:
        print(usage(), end="")
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("polarpix"))
        return 0
    name, rest = find_command(arguments)
    if name in GROUPS:
        print(usage(name), end="")
        return 0
    command = command_of(name)
    rest = joined(rest)
    parser, parameters = command_parser(name), inspect.signature(command).parameters
    options: list[str] = []
    if "options" in parameters:
        rest, options = split_options(name, rest)
    values = vars(parser.parse_args(rest)) | ({"options": options} if "options" in parameters else {})
    first = [values.pop(one.name) for one in parameters.values() if one.kind is one.POSITIONAL_ONLY]
    return command(*first, **values)


def one_line_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as users read it: no source line."""
    return f"polarpix: warning: {' '.join(str(message).split())}\n"


def main() -> None:
    """Entry point: bad input ends in one line on stderr and status 2."""
    warnings.formatwarning = one_line_warning
    try:
        status = run(sys.argv[1:])
    except InputError as error:
        print(f"polarpix: {error}", file=sys.stderr)
        status = 2
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        place = error.filename or "a file"
        print(f"polarpix: {place}: {error.strerror}: make room, or choose another place", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("polarpix: interrupted; what was written is kept", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
