"""The command line: a command is a typed function, a page option is any key of a page (``--optim.lr 0.001``)."""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from polarpix import commands
from polarpix.errors import InputError

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, Callable[..., int]] = {
    "train": commands.train,
    "eval": commands.evaluate,
    "predict": commands.predict,
    "models": commands.models,
    "info": commands.info,
    "demo": commands.demo,
}

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


def command_parser(name: str) -> Parser:
    """A parser made from a command's signature.

    A parameter without default, or one before "/", is positional; a list takes several; a bool is a flag.
    """
    command = COMMANDS[name]
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
    parameters = inspect.signature(COMMANDS[name]).parameters.values()
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


def usage() -> str:
    """The help of the program itself."""
    rows = "\n".join(f"  {name:<9}{summary(command)}" for name, command in COMMANDS.items())
    return (
        "usage: polarpix COMMAND ...\n\n"
        "Keypoints and segmentation masks with polarized self-attention.\n\n"
        f"commands:\n{rows}\n\n"
        "'polarpix COMMAND --help' explains a command.\n"
    )


def run(arguments: Sequence[str]) -> int:
    """Dispatch one command line; gives the exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    name, *rest = arguments
    if name == "--version":
        from importlib.metadata import version

        print(version("polarpix"))
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(COMMANDS)}"
        raise InputError(f"no command {name!r}: {mend}")
    parser, parameters = command_parser(name), inspect.signature(COMMANDS[name]).parameters
    options: list[str] = []
    if "options" in parameters:
        rest, options = split_options(name, rest)
    values = vars(parser.parse_args(rest)) | ({"options": options} if "options" in parameters else {})
    first = [values.pop(one.name) for one in parameters.values() if one.kind is one.POSITIONAL_ONLY]
    return COMMANDS[name](*first, **values)


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
    except KeyboardInterrupt:
        print("polarpix: interrupted; what was written is kept", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
