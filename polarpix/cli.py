"""The command line: a command is a typed function, a page option is any key of a page (``--optim.lr 0.001``)."""

from __future__ import annotations

import argparse
import difflib
import errno
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from polarpix import about, commands
from polarpix.bench import commands as bench
from polarpix.doctor import commands as doctor
from polarpix.errors import InputError, TerminatedError
from polarpix.export import commands as exporting
from polarpix.review import commands as review
from polarpix.web.commands import serve
from polarpix.zoo import MODELS, model_and_sources

__all__ = ["BENCHES", "COMMANDS", "GROUPS", "main"]

COMMANDS: dict[str, Callable[..., int]] = {
    "train": commands.train,
    "eval": commands.evaluate,
    "calibrate": commands.calibrate,
    "predict": commands.predict,
    "export": exporting.export,
    "serve": serve,
    "explain": review.explain,
    "compare": review.compare,
    "publish": commands.publish,
    "models": about.models,
    "info": about.info,
    "demo": commands.demo,
}
"""First word of a command line -> its function, whose signature makes the parser; gives the exit status."""
BENCHES: dict[str, Callable[..., int]] = {
    "block": bench.block,
    "model": bench.model,
    "kernels": bench.kernels,
    "export": bench.export,
    "accuracy": bench.accuracy,
}
DOCTOR: dict[str, Callable[..., int]] = {
    "check": doctor.check,
    "sigmas": doctor.sigmas,
    "convert": doctor.convert,
    "split": doctor.split,
}
# First word -> what its commands are about, and the commands.
GROUPS: dict[str, tuple[str, Mapping[str, Callable[..., int]]]] = {
    "bench": ("Measure time and memory of blocks, networks and kernels, and what attention gains.", BENCHES),
    "data": ("Check, convert and measure annotations.", DOCTOR),
}

ABOUT = "Keypoints and segmentation masks with polarized self-attention."
# What is wrong with the place that something should be written to.
NO_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.EIO, errno.ESTALE),  # a network folder that went away
)
MODEL_HELP = f"in the weights' place: {', '.join(MODELS)} ('polarpix models' lists them), or user/name on the Hub"
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
            several = "*" if parameter.name == "source" else "+"  # model_and_sources() sees to a line without
            parser.add_argument(parameter.name, nargs=several if kind.startswith("list") else None, **settings)
            if parameter.name == "weights":  # for the help: named_model() has put it first before a line is parsed
                parser.add_argument("--model", metavar="NAME", default=argparse.SUPPRESS, help=MODEL_HELP)
        else:
            number = {"int": int, "float": float}.get(kind.removesuffix(" | None"), str)
            settings |= {"dest": parameter.name, "metavar": flag[2:].upper().replace("-", "_")}
            parser.add_argument(flag, default=parameter.default, type=number, **settings)
    return parser


def named_model(arguments: Sequence[str]) -> list[str]:
    """``photo.jpg --model body`` as ``body photo.jpg``: a model's name stands in the place of a weights file.

    Raises:
        InputError: --model without a name.
    """
    words = list(arguments)
    for i, word in enumerate(words):
        option, equals, name = word.partition("=")
        if option == "--model":
            rest = words[i + 1 :] if equals else words[i + 2 :]
            name = name if equals else "".join(words[i + 1 : i + 2])
            if not name or name.startswith("-"):
                raise InputError(f"--model needs a name: {', '.join(MODELS)}, or user/name on the Hugging Face Hub")
            return [name, *words[:i], *rest]
    return words


def flag_of(parameter: str) -> str:
    """print_config -> --print-config; from_, which Python does not take without its stroke, -> --from."""
    return "--" + parameter.rstrip("_").replace("_", "-")


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
    if "weights" in parameters:
        rest = named_model(rest)
    if "options" in parameters:
        rest, options = split_options(name, rest)
    values = vars(parser.parse_intermixed_args(rest)) | ({"options": options} if "options" in parameters else {})
    if {"weights", "source"} <= set(values):
        words = [values["weights"], *values["source"]]
        values["weights"], values["source"] = model_and_sources(words)
        if values["source"] == words:
            warnings.warn(f"no model is named: {values['weights']} is taken (--model NAME for another)", stacklevel=1)
    first = [values.pop(one.name) for one in parameters.values() if one.kind is one.POSITIONAL_ONLY]
    return command(*first, **values)


def open_bars() -> list[Any]:
    """The progress bars that stand on the terminal."""
    module = sys.modules.get("tqdm")  # where it is not imported, none is open
    return [bar for bar in list(module.tqdm._instances) if hasattr(bar, "start_t")] if module else []  # drawn ones


def one_line_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as users read it: no source line, and not behind a progress bar, which its next step draws anew."""
    for bar in open_bars():
        bar.clear()
    return f"polarpix: warning: {' '.join(str(message).split())}\n"


def place_line(error: OSError) -> str:
    """What is wrong with the place that something should be written to; empty for any other error."""
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "a file"
    if error.errno in NO_PLACE:
        return f"{place}: {error.strerror}: make room, or choose another place"
    if error.errno == errno.ENOENT and error.filename:  # also what /proc and its like say where no file can be made
        import tempfile

        nearest = next(one for one in Path(place).absolute().parents if one.is_dir())
        try:
            tempfile.TemporaryFile(dir=nearest).close()
        except OSError:
            return f"{place}: cannot be made, {nearest} takes no files: choose another place"
    return ""


def say(line: str) -> None:
    """The last line on stderr, below the progress bars that are open there."""
    for bar in open_bars():
        bar.close()
    print(f"polarpix: {line}", file=sys.stderr)


def main() -> None:
    """Entry point: bad input ends in one line on stderr and status 2."""
    warnings.formatwarning = one_line_warning
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names no terminal can show
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, as head does, has enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 # until the process ends
        status = 141  # as shells report it
    except InputError as error:
        say(str(error))
        status = 2
    except OSError as error:
        line = place_line(error)
        if not line:
            raise
        say(line)
        status = 2
    except TerminatedError as error:
        say(str(error))
        status = 143
    except KeyboardInterrupt:
        say("interrupted; what was written is kept")
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
