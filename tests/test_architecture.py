"""The house: who may import whom, what the core pulls in, and who touches private APIs."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import bam

ROOT = Path(bam.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
SCRIPT = importlib.util.spec_from_file_location("rooms", Path(__file__).parent.parent / "docs" / "rooms.py")
rooms = importlib.util.module_from_spec(SCRIPT)  # the ladder, and the picture of it
SCRIPT.loader.exec_module(rooms)
PROBE = """
import sys
for room in sys.argv[1:]:
    __import__(room)
    print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    room = rooms.room_of(path)
    if room == "__init__":
        assert rooms.imports_of(path) <= set(rooms.CORE)
        return
    for other in rooms.imports_of(path):
        assert rooms.LADDER.index(other) <= rooms.LADDER.index(room), f"{room} imports {other}"


def test_the_picture_of_the_rooms_is_up_to_date():
    assert rooms.picture() == rooms.PICTURE.read_text(), "docs/rooms.svg is stale: run python docs/rooms.py"


def test_a_room_without_a_place_is_an_error(monkeypatch):
    for ladder, message in (
        (rooms.LADDER[:-1], "does not list the rooms of the package: add __main__"),
        ([*rooms.LADDER, "attic"], "there is no src/bam/attic: remove it"),
        (rooms.LADDER[::-1], "__main__ imports cli, which is not above it"),
    ):
        monkeypatch.setattr(rooms, "LADDER", ladder)
        with pytest.raises(ValueError, match=message):
            rooms.read_rooms()


def module_name(path):
    return ".".join(("bam", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imported_modules(tree, modules):
    """The modules of bam that a file imports anywhere: also in functions, and for type checkers alone.

    `from bam.x import y` imports bam.x.y if that is a module, and else bam.x.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            submodules = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in modules else node.module for name in submodules)


def circles(imports):
    """The sets of modules each of which imports all the others of its set, directly or through them."""
    reachable = {}
    for start in imports:
        seen, queue = set(), [start]
        while queue:
            new = imports[queue.pop()] - seen
            seen |= new
            queue += new
        reachable[start] = seen
    return {
        frozenset(other for other in reachable[start] if start in reachable[other])
        for start in imports
        if start in reachable[start]
    }


def test_files_import_each_other_in_no_circle():
    modules = {module_name(path): ast.parse(path.read_text()) for path in FILES}
    present = circles({name: set(imported_modules(tree, modules)) for name, tree in modules.items()})
    assert not present, "files import each other in a circle:\n" + "\n".join(map(" <-> ".join, present))


def test_circles_are_recognised():
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": {"a", "d"}}
    assert circles(imports) == {frozenset("bc"), frozenset("d")}
    tree = ast.parse("def f():\n    from bam.x import y, z\nif TYPE_CHECKING:\n    import bam.w")
    assert set(imported_modules(tree, {"bam.x", "bam.x.y", "bam.w"})) == {"bam.x", "bam.x.y", "bam.w"}


def test_reports_never_see_models():
    imported = set().union(*map(rooms.imports_of, (ROOT / "reports").glob("*.py")))
    assert imported <= {"reports", "records", "files", "costs"}


def test_core_needs_torch_alone():
    command = [sys.executable, "-c", PROBE, "torch", "bam", "bam.training"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    before, core, training = (set(line.split()) for line in run.stdout.splitlines())
    added = core - before
    assert "bam" in added
    foreign = added - set(sys.stdlib_module_names) - {"bam"}
    assert not foreign
    assert "rich" in training  # the probe can tell


def test_functions_fit_a_screen():
    long = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.body[0].lineno > 40:
                long[f"{path.name}:{node.name}"] = node.end_lineno - node.body[0].lineno
    assert not long


#: Options of modules are their papers' choices, and their users' keywords; two are device and dtype.
MANY_PARAMETERS = {
    f"attention/{name}.py:__init__" for name in ("bam", "dynamic_filter", "residual_attention", "spatial_transformer")
}


def test_functions_take_at_most_six_parameters():
    many = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                a = node.args
                names = [arg.arg for arg in (*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg) if arg]
                if len(set(names) - {"self", "cls"}) > 6:
                    many.add(f"{path.relative_to(ROOT).as_posix()}:{node.name}")
    assert many == MANY_PARAMETERS, "an object is missing"


def test_attention_classes_are_known_in_their_room_alone():
    """All others ask the contract."""
    concrete = {cls.__name__ for cls in bam.ATTENTION.values()}
    modules = {cls.__module__ for cls in bam.ATTENTION.values()}
    for path in FILES:
        if path.parent.name == "attention" or path == ROOT / "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names} & concrete
                assert not names and node.module not in modules, f"{path}: {names or node.module}"


#: What touches private APIs: `private.py`, and the carrier of attention, which has hooks into nn.Module of its own.
MAY_BE_PRIVATE = {"private.py", "attention/attended.py"}
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}  # of named tuples, and os._exit


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def is_own(owner):
    return owner in ("self", "cls", "super()")


def names_given(tree):
    """The names that a file itself gives to functions, classes, variables, fields and attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(ast.unparse(node.value)):
            yield node.attr


def private_uses(tree):
    """The private names of others that a file uses: imported, or read as attributes of anything but `self`."""
    given = set(names_given(tree))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [] if node.module.split(".")[0] == "bam" else [f"{node.module}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and node.attr not in given and not is_own(ast.unparse(node.value)):
            names = [f"_.{node.attr}"]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            names = [f"_.{node.args[1].value}"] if isinstance(node.args[1], ast.Constant) else []
        if any(is_private(part) for name in names for part in name.removeprefix("_.").split(".")):
            yield f"{node.lineno}: {ast.unparse(node)}"


def test_private_apis_are_touched_in_one_file():
    uses = [
        f"{path.relative_to(ROOT)}:{use}"
        for path in FILES
        if path.relative_to(ROOT).as_posix() not in MAY_BE_PRIVATE
        for use in private_uses(ast.parse(path.read_text()))
    ]
    assert not uses, "private APIs are for bam/private.py alone, as functions with a reason:\n" + "\n".join(uses)


@pytest.mark.parametrize(
    "code",
    [
        "import torch._dynamo",
        "from torch import _C",
        "from torch.utils._pytree import tree_leaves",
        "def f():\n    from timm.models._registry import x",
        "import torch\ntorch._dynamo.reset()",
        "import torch\nx = torch.cpu._is_avx512_bf16_supported",
        "from torch import nn\nx = nn.modules.batchnorm._BatchNorm",
        "from accelerate.state import AcceleratorState as S\nS._reset_state()",
        "for x in parent.children[0]._modules: pass",
        "x = getattr(layer, '_forward_hooks', None)",
        "self.norm._buffers['x'] = 0",
        "for kind in kinds: kind._shared_state.clear()",
        "model._args = {}",
    ],
)
def test_private_apis_are_recognised(code):
    assert len(list(private_uses(ast.parse(code)))) == 1


def test_own_private_names_are_fine():
    code = "from bam import _x\nclass A(NamedTuple):\n    _y: int\nA()._replace(y=self._modules.__class__)._y"
    assert not list(private_uses(ast.parse(code)))
