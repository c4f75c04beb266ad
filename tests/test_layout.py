"""The order of the house: which way imports go, what a module shows, where its test is, how long it may get."""

import ast
import importlib
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "polarpix").rglob("*.py"))

# A room may import from itself and from the rows above its own.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "page_parts"),
    ("types", "config", "zoo"),
    (
        "psa",
        "color",
        "rgb",
        "rle",
        "metadata",
        "records",
        "chart",
        "bars",
        "matrix",
        "style",
        "loading",
        "bounds",
        "published",
        "devices",
        "tensor_files",
    ),
    ("calibration",),
    ("plain_images",),
    ("attention", "gates", "images", "sheet", "pages", "report"),
    ("draw", "report_files", "sources", "pipeline", "places"),
    ("backbones", "demo", "findings", "reliability"),
    ("pose", "seg"),
    ("engine", "results", "streams"),
    ("hub", "framed"),
    ("predict", "box_files", "detectors", "outputs", "ray_parts", "runtime", "summary", "costs"),
    ("predictor", "export", "demo.boxed"),
    ("predict_files", "ray_predict", "demo.run", "checkpoints", "bench"),
    ("review", "web", "doctor", "about"),
    ("commands",),
    ("cli",),
    ("__main__",),
    ("",),  # the package itself, which fetches its names lazily
)
ONLY_IN = {
    "triton": ("psa.tiles", "psa.kernels*", "psa.launch", "psa.plans", "psa.steps", "bench.kernels*"),
    "pytorch_lightning": ("pose.task", "seg.task", "engine.*"),
    "lightning": (),
    "jsonargparse": ("pages",),
    "onnx": ("export.formats",),
    "onnxscript": ("export.formats",),
    "onnxruntime": ("runtime.sessions", "bench.exported", "bench.by_hand"),
    "openvino": ("runtime.sessions", "export.formats"),
    "gradio": ("web.*",),
    "ray": ("ray_predict",),
    "transformers": ("detectors",),
    "supervision": ("results",),
    "fastapi": ("web.*",),
    "fastapi_swagger": ("web.*",),
    "starlette": ("web.*",),
    "pydantic": ("web.*",),
    "uvicorn": ("web.*",),
    "pycocotools": (),
    "matplotlib": (),
}
# Modules without a test file of their own: values and parts that only make sense within another room's test.
TESTED_IN = {
    "about": "test_cli",
    "config": "test_pages",
    "page_parts": "test_pages",
    "errors": "test_cli",
    "__main__": "test_cli",
    "bench.commands": "test_cli",
    "review.commands": "review/test_explain",
    "review.explain_page": "review/test_explain",
    "review.runs": "review/test_compare",
    "bars": "test_report_files",
    "bench.by_hand": "bench/test_exporting",
    "export.commands": "test_cli",
    "framed": "test_predict",
    "chart": "test_report_files",
    "matrix": "test_report_files",
    "style": "test_report_files",
    "demo.body": "demo/test_figures",
    "demo.paint": "demo/test_figures",
    "demo.scenery": "demo/test_figures",
    "doctor.layout": "doctor/test_check",
    "doctor.tables": "doctor/test_convert",
    "pose.coco_json": "pose/test_coco",
    "pose.maps": "pose/test_codec",
    "psa.plain": "psa/test_passes",
    "psa.tiles": "psa/test_kernels",
    "psa.kernels_grad": "psa/test_kernels",
    "psa.kernels_weight": "psa/test_kernels",
    "web.answers": "web/test_api",
    "web.commands": "web/test_server",
}
MAX_LINES = 320  # blank ones aside


def module_of(path: Path) -> str:
    """polarpix/pose/task.py -> pose.task; a package is its folder."""
    parts = path.relative_to(ROOT / "polarpix").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def layer_of(module: str) -> int:
    rooms = [room for row in LAYERS for room in row if module == room or (room and module.startswith(f"{room}."))]
    assert rooms, f"polarpix.{module} is in no row of LAYERS: give it a place"
    room = max(rooms, key=len)
    return next(i for i, row in enumerate(LAYERS) if room in row)


def room_of(module: str) -> str:
    return module.partition(".")[0]


@cache
def parsed(path: Path) -> ast.Module:
    """A source file; every test of this page looks at most of them."""
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, also inside functions; the name is empty for ``import module``."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full"
            for alias in node.names:
                yield str(node.module), alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""


def own_imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module of polarpix without the prefix, name)."""
    for module, name in imports(path):
        if module == "polarpix" and name in MODULES:
            yield name, ""
        elif module.partition(".")[0] == "polarpix":
            yield module.removeprefix("polarpix").removeprefix("."), name


def names_of(module: str) -> list[str]:
    for node in parsed(MODULES[module]).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            names = ast.literal_eval(node.value)
            assert isinstance(names, list)
            return names
    return []


def holds_code(path: Path) -> bool:
    """Whether there is more than a docstring."""
    return any(not isinstance(node, ast.Expr) for node in parsed(path).body)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    for target, _ in own_imports(MODULES[module]):
        if room_of(target) != room_of(module) or "demo.run" in (module, target):
            assert layer_of(target) < layer_of(module), f"polarpix.{module} must not import polarpix.{target}"


def test_the_table_of_rooms_is_current() -> None:
    for room in (room for row in LAYERS for room in row):
        assert room in MODULES, f"LAYERS names {room}, which is gone"


@pytest.mark.parametrize("module", MODULES)
def test_packages_stay_where_they_belong(module: str) -> None:
    for target, _ in imports(MODULES[module]):
        allowed = ONLY_IN.get(target.partition(".")[0])
        assert allowed is None or any(fnmatch(module, one) for one in allowed), f"polarpix.{module} imports {target}"


@pytest.mark.parametrize("module", [module for module, path in MODULES.items() if holds_code(path)])
def test_modules_say_what_they_show(module: str) -> None:
    listed = names_of(module)
    assert listed, f"polarpix.{module} has no __all__"
    assert len(set(listed)) == len(listed)
    found = importlib.import_module(f"polarpix.{module}".rstrip("."))
    for name in listed:
        assert hasattr(found, name), f"polarpix.{module}.__all__ names {name}, which it does not have"
        assert not name.startswith("_") or name == "__version__"


@pytest.mark.parametrize("module", MODULES)
def test_modules_take_only_what_others_show(module: str) -> None:
    for target, name in own_imports(MODULES[module]):
        if name and f"{target}.{name}".lstrip(".") not in MODULES:
            assert name in names_of(target), f"polarpix.{module} takes {name}, which polarpix.{target} does not list"


def test_every_source_has_its_test() -> None:
    missing = []
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module:
            continue  # rooms only pass names on
        *rooms, last = module.split(".") if module else ["init"]
        test = "/".join([*rooms, f"test_{last}"])
        assert module not in TESTED_IN or not (ROOT / "tests" / f"{test}.py").is_file(), f"{module} has its own test"
        if not (ROOT / "tests" / f"{TESTED_IN.get(module, test)}.py").is_file():
            missing.append(test)
    assert not missing


@pytest.mark.parametrize("path", SOURCES, ids=[module_of(path) for path in SOURCES])
def test_files_stay_short(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) <= MAX_LINES


def test_contributing_names_the_rows_that_are_held() -> None:
    """Its paragraph is for readers, LAYERS for this file: one must not say other than the other."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Arrows")[2].partition("## Rules")[0]
    said = " ".join(text.partition(": ")[2].partition(". ")[0].split())
    rows = [tuple(re.split(r", | \| ", row.replace("`", "").replace("/", "."))) for row in said.split(" ← ")]
    assert rows == [row for row in LAYERS if row not in (("__main__",), ("",))]


def requirements(name: str, seen: set[str]) -> set[str]:
    """The distributions that an installation of `name` brings along, extras aside."""
    for line in distribution(name).requires or []:
        need = Requirement(line)
        key = re.sub(r"[-_.]+", "-", need.name).lower()
        if key in seen or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        seen.add(key)
        try:
            requirements(key, seen)
        except PackageNotFoundError:
            seen.discard(key)  # for another platform
    return seen


def test_no_runtime_dependency_is_under_the_gpl() -> None:
    found = requirements("polarpix", set())
    assert {"torch", "timm", "pytorch-lightning", "numpy", "packaging"} <= found
    for name in sorted(found):
        info = distribution(name).metadata
        words = " ".join(
            [
                info.get("License-Expression") or "",
                (info.get("License") or "").partition("\n")[0],
                *(value for value in info.get_all("Classifier") or [] if value.startswith("License ::")),
            ]
        )
        assert not re.search(r"(?<!L)\bA?GPL|Affero|(?<!Lesser )General Public License", words), f"{name}: {words}"
