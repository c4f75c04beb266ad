"""A .pt2 file of torch.export looked through, and made anew of what was found good, before torch opens it.

``torch.export.load`` runs what a file asks it to: it unpickles sample inputs, weights and constants, loads compiled
libraries, calls ``eval`` on the sizes of tensors and ``exec`` on guards and on the names of inputs, and takes any
function below ``torch`` for an operator. So a file of polarpix holds no pickle, no guard and no library; its tensors
are bare numbers; and every text of its graph is a word, an operator of :data:`OPERATOR`, or a size of a grammar with
numbers, symbols and arithmetic alone (:func:`_check_size`). Whatever else there is, is refused. What torch then reads
is an archive written here from the parts that were looked at, so that it finds nothing that was overlooked.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Mapping
from math import prod
from typing import Any

from polarpix.runtime.seal import EXPORT_FORMAT, blank_seal, check_seal, sealed

__all__ = ["METADATA_FILE", "archive", "check_torch_file", "packed", "plain_file"]

METADATA_FILE = "polarpix.json"  # among the extra files of the archive
MODEL, TEXTS, SAMPLES = "models/model.json", f"extra/{METADATA_FILE}", "data/sample_inputs/model.pt"
TABLES = {kind: f"data/{kind}/model_{kind}_config.json" for kind in ("weights", "constants")}
FIXED = {"archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id"}
TENSOR = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,9}")
MOST_JSON = 2**26  # bytes of a part that is parsed: the values take ten times as much

WORD = re.compile(r"[\w.]{0,500}", re.ASCII)
TEXT = re.compile(r"[\w ,.>+-]{0,500}", re.ASCII)  # of an operator's argument: "reflect", "bij,bjk->bik"
OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b|save\b)([A-Za-z]\w*|__(and|or|xor)__|_upsample_\w+_aa)\.[A-Za-z]\w*"
    r"|_operator\.(add|sub|mul|floordiv|mod|neg|truediv|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(ceil|floor|trunc)|torch\.sym_(max|min|not|float)",
    re.ASCII,
)
"""Operators of torch's own that neither open files nor stand for its inner works, and arithmetic of sizes."""
NAMED = {  # tables whose keys are names of the graph
    *("tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values", "range_constraints"),
    *("opset_version", "config"),
}
KEYS = {
    *("graph_module", "opset_version", "range_constraints", "schema_version", "verifiers", "torch_version"),
    *("guards_code", "graph", "signature", "module_call_graph", "metadata", "treespec_namedtuple_fields", "major"),
    *("minor", "inputs", "outputs", "nodes", "tensor_values", "sym_int_values", "sym_bool_values"),
    *("sym_float_values", "custom_obj_values", "is_single_tensor_return", "target", "is_hop_single_tensor_return"),
    *("name", "arg", "kind", "as_none", "as_tensor", "as_tensors", "as_int", "as_ints", "as_float", "as_floats"),
    *("as_string", "as_strings", "as_sym_int", "as_sym_ints", "as_sym_float", "as_sym_floats", "as_sym_bool"),
    *("as_sym_bools", "as_scalar_type", "as_memory_format", "as_layout", "as_device", "as_bool", "as_bools"),
    *("as_optional_tensor", "as_optional_tensors", "as_int_lists", "as_float_lists", "as_name", "as_expr"),
    *("expr_str", "hint", "dtype", "sizes", "requires_grad", "device", "strides", "storage_offset", "layout"),
    *("type", "index", "min_val", "max_val", "input_specs", "output_specs", "user_input", "parameter", "buffer"),
    *("tensor_constant", "constant_input", "value", "user_output", "parameter_name", "buffer_name", "persistent"),
    *("tensor_constant_name", "fqn", "in_spec", "out_spec", "forward_arg_names", "config", "path_name", "is_param"),
    *("use_pickle", "tensor_meta"),
}
EMPTY = ("metadata", "guards_code", "custom_obj_values", "treespec_namedtuple_fields")  # code, objects, source lines
TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
SIZES = {
    *(
        "Symbol",
        "Integer",
        "Add",
        "Mul",
        "Max",
        "Min",
        "Mod",
        "PythonMod",
        "FloorDiv",
        "CleanDiv",
        "CeilDiv",
        "Rational",
    ),
    *("ModularIndexing", "FloorToInt", "CeilToInt", "TruncToInt", "IntTrueDiv", "ToFloat"),
    *("Eq", "Ne", "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"),
}
"""What an expression of a size is made of; no powers, which can take forever."""
ASSUMED = {
    "positive",
    "negative",
    "nonnegative",
    "nonpositive",
    "integer",
    "real",
    "finite",
    "zero",
    "nonzero",
    "evaluate",
}
ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
"""torch.export's ScalarType -> bytes of a number."""

Parts = dict[str, bytes]


def check_torch_file(data: bytes) -> tuple[Parts, dict[str, str]]:
    """The parts of a file that holds nothing but what is taken, and its metadata.

    Raises:
        ValueError: says what else it holds, or that it is no such file. One of another version is not looked through:
            nothing but its metadata comes back.
    """
    parts = _unpacked(data)
    metadata = _json(parts, TEXTS)
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata are no texts by name")
    if metadata.get("format") != EXPORT_FORMAT:
        return {}, metadata
    check_seal(_joined(parts), ".pt2")
    if parts.get(SAMPLES):
        raise ValueError("pickled sample inputs, which could run a program")
    _check_tree(_json(parts, MODEL), "")
    for kind, table in TABLES.items():
        _check_tensors(parts, kind, _json(parts, table))
    return parts, metadata


def archive(parts: Mapping[str, bytes]) -> io.BytesIO:
    """The parts as torch wants them."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        for name, content in parts.items():
            file.writestr(f"archive/{name}", content)
    stream.seek(0)
    return stream


def plain_file(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """What torch.export wrote, without what is not taken and not needed: sample inputs, and where nodes came from."""
    parts = _unpacked(data)
    model = _json(parts, MODEL)
    for node in model["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    calls = model["graph_module"]["module_call_graph"]
    model["graph_module"]["module_call_graph"] = [one for one in calls if one["fqn"] == ""]
    return packed(parts | {MODEL: json.dumps(model).encode(), SAMPLES: b""}, metadata)


def packed(parts: Mapping[str, bytes], metadata: Mapping[str, str]) -> bytes:
    """The parts with other metadata as a file, sealed."""
    parts = {**parts, TEXTS: json.dumps({**metadata, "seal": blank_seal(".pt2")}).encode()}
    whole = sealed(_joined(parts), ".pt2")
    at = whole.find(TEXTS.encode()) + len(TEXTS) + 9  # behind its name, a zero and its length
    parts[TEXTS] = whole[at : at + len(parts[TEXTS])]
    return archive(parts).getvalue()


def _unpacked(data: bytes) -> Parts:
    """The parts of an archive by name, checked against their checksums."""
    parts: Parts = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = file.infolist()
            if any(one.compress_type != zipfile.ZIP_STORED or one.flag_bits & 1 for one in entries):
                raise ValueError("compressed or encrypted parts, as torch never writes")
            if sum(one.file_size for one in entries) > len(data):
                raise ValueError("parts that lie upon each other")
            for one in entries:
                name = one.filename.partition("/")[2]
                known = name in {MODEL, TEXTS, SAMPLES, *TABLES.values(), *FIXED} or TENSOR.fullmatch(name)
                if not known or name in parts:
                    raise ValueError(f"a part {one.filename!r:.80}: polarpix writes none, or only one")
                parts[name] = file.read(one)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:  # the last: of a format zipfile knows not
        raise ValueError(f"cut off, altered, or no archive of torch: {error}") from None
    return parts


def _joined(parts: Mapping[str, bytes]) -> bytes:
    """All parts in the order of their names, each behind name and length: what the seal is of."""
    rows = ((name.encode(), len(parts[name]).to_bytes(8, "little"), parts[name]) for name in sorted(parts))
    return b"".join(piece for row in rows for piece in (*row[:1], b"\0", *row[1:]))


def _json(parts: Mapping[str, bytes], name: str) -> Any:
    if name not in parts or len(parts[name]) > MOST_JSON:
        raise ValueError(f"no {name} in it, or a larger one than is read")
    return json.loads(parts[name])


def _check_tree(value: Any, key: str) -> None:
    """Refuse keys and texts that are not of a plain graph. ``key`` is what the value stands under."""
    if key in EMPTY and value:
        raise ValueError(f"{key} in its graph: polarpix writes none, for they are run or name what is")
    if isinstance(value, dict):
        for name, inner in value.items():
            if (not WORD.fullmatch(name)) if key in NAMED else (name not in KEYS):
                raise ValueError(f"{name!r:.80} in its graph: polarpix writes no such part")
            _check_tree(inner, "" if key in NAMED else name)
    elif isinstance(value, list):
        for inner in value:
            _check_tree(inner, key)
    elif isinstance(value, str):
        _check_text(value, key)


def _check_text(text: str, key: str) -> None:
    if key == "expr_str":
        _check_size(text)
    elif key in ("in_spec", "out_spec"):
        protocol, tree = json.loads(text)
        _check_spec(tree)
        if protocol != 1:
            raise ValueError("a tree of inputs or outputs of another kind")
    elif key == "target":
        if not OPERATOR.fullmatch(text):
            raise ValueError(f"an operator {text!r:.80}: only those of torch's networks are taken")
    elif not (TEXT if key in ("as_string", "as_strings", "torch_version") else WORD).fullmatch(text):
        raise ValueError(f"{text!r:.80} in its graph: no plain word")


def _check_spec(tree: Any) -> None:
    """Tuples, lists and dictionaries: other kinds name classes to import."""
    keys = {"type", "context", "children_spec"}
    if not isinstance(tree, dict) or set(tree) != keys or tree["type"] not in TREES:
        raise ValueError("a tree of inputs or outputs of another kind")
    if tree["context"] not in (None, "null", "[]"):
        raise ValueError("a tree of inputs or outputs with more inside")
    for child in tree["children_spec"]:
        _check_spec(child)


def _check_size(text: str) -> None:
    """An expression of numbers, symbols and SIZES: what torch hands to ``eval``."""
    if len(text) > 20_000:
        raise ValueError("a size in more than 20,000 letters")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, MemoryError) as error:
        raise ValueError(f"a size {text!r:.80}: not in order") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            taken = isinstance(node.func, ast.Name) and node.func.id in SIZES
        elif isinstance(node, ast.Name):
            taken = node.id in SIZES
        elif isinstance(node, ast.Constant):
            value = node.value
            word = isinstance(value, str) and len(value) < 50 and value.isidentifier()
            taken = word or value is None or (isinstance(value, bool | int | float) and abs(value) < 2**64)
        elif isinstance(node, ast.keyword):
            taken = node.arg in ASSUMED
        else:
            taken = isinstance(node, ast.Expression | ast.Load | ast.UnaryOp | ast.USub)
        if not taken:
            raise ValueError(f"a size {text!r:.80}: more than numbers and symbols")


def _check_tensors(parts: Mapping[str, bytes], kind: str, table: Any) -> None:
    """Every tensor lies as bare numbers in a part of its own that is long enough for it."""
    _check_tree(table, "")
    stem = {"weights": "weight_", "constants": "tensor_"}[kind]
    for name, one in table["config"].items():
        file, meta = str(one["path_name"]), one["tensor_meta"]
        if one["use_pickle"] is not False or not file.startswith(stem):
            raise ValueError(f"{name:.80}: pickled, which could run a program")
        item = ITEM_BYTES.get(meta["dtype"])
        if item is None or meta["device"]["type"] != "cpu":
            raise ValueError(f"{name:.80}: numbers of an unknown kind, or elsewhere than on the CPU")
        sizes: list[int] = [_whole(n) for n in meta["sizes"]]
        strides = [_whole(n) for n in meta["strides"]]
        held = len(parts[f"data/{kind}/{file}"])
        last = _whole(meta["storage_offset"]) + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        count: int = prod(sizes)
        if len(sizes) > 16 or count * item > held or (count and (last + 1) * item > held):
            raise ValueError(f"{name:.80}: of shape {sizes!s:.60} in {held} bytes")


def _whole(size: Any) -> int:
    """A size of a tensor, which torch writes as {"as_int": 3}."""
    value = size["as_int"]
    if type(value) is not int or value < 0:
        raise ValueError(f"a size of {value!r:.40}")
    return value
