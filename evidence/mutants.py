"""Small faults in a module's source, one at a time: what mutation testing plants.

Operators after Offutt et al. (1996): relational, logical, arithmetic, constants, statements; and
those of this field: ``min`` for ``max``, ``any`` for ``all``, the other side of a search or a join.
Words are left alone: docstrings, annotations, decorators, and what an error says.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_ORDER: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_NAMES = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "any": "all",
    "all": "any",
    "head": "tail",
    "first": "last",
    "last": "first",
}
_WORDS = {
    "left": "right",
    "right": "left",
    "backward": "forward",
    "forward": "backward",
    "anti": "semi",
    "first": "last",
    "last": "first",
}
"""For string arguments ``closed=``, ``side=``, ``strategy=``, ``how=`` and the like."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes
    ----------
    line : int
        Of the module, from 1.
    change : str
        What stood there and what stands there now; with the line and ``source`` its identity.
    where : str
        The function or class that it is in, dotted; empty at the top of the module.
    in_function : bool
        Whether it is in the body of one, so that it need not be imported anew.
    source : str
        The whole module with the fault.
    """

    line: int
    change: str
    where: str
    in_function: bool
    source: str

    @property
    def key(self) -> str:
        """Name of the fault that does not move with the lines above it."""
        return f"{self.where}: {self.change}"


def mutants_of(source: str) -> list[Mutant]:
    r"""Return every fault, in the order of the lines; faults that look alike are numbered.

    Examples
    --------
    >>> [m.change for m in mutants_of("def f(a):\n    return a < 3\n")]
    ['return a < 3 -> return None', 'a < 3 -> a <= 3', 'a < 3 -> a >= 3', '3 -> 4', '3 -> 2']
    """
    tree = ast.parse(source)
    made: list[Mutant] = []
    seen: dict[tuple[str, str], int] = {}
    for parent, name, place, where, inside in _places(tree, "", False):
        held = getattr(parent, name)
        old: ast.AST = held if place is None else held[place]
        for new in _faults(old, parent, name):
            change = f"{_shown(old)} -> {_shown(new)}"
            count = seen[where, change] = seen.get((where, change), 0) + 1
            _put(parent, name, place, new)
            faulty = ast.unparse(ast.fix_missing_locations(tree))
            _put(parent, name, place, old)
            numbered = change if count == 1 else f"{change} ({count})"
            made.append(Mutant(getattr(old, "lineno", 0), numbered, where, inside, faulty))
    return made


def _put(parent: ast.AST, name: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[place] = node


def _places(
    node: ast.AST, where: str, inside: bool
) -> Iterator[tuple[ast.AST, str, int | None, str, bool]]:
    """Yield (parent, field, place in it, dotted name, in a function) of what may be changed."""
    function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    if function or isinstance(node, ast.ClassDef):
        where = f"{where}.{node.name}" if where else node.name
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "exc", "ctx"):
            continue
        within = inside or (function and name == "body")
        children = value if isinstance(value, list) else [value]
        for k, child in enumerate(children):
            if not isinstance(child, ast.AST) or _is_wording(child):
                continue
            yield node, name, k if isinstance(value, list) else None, where, within
            yield from _places(child, where, within)


def _is_wording(node: ast.AST) -> bool:
    """Say whether this is text for a reader: it decides nothing."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.FunctionDef):
        return node.name in ("__repr__", "__str__")
    if isinstance(node, ast.keyword):
        return node.arg in ("repr", "slots", "frozen")
    return isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom)


def _faults(node: ast.AST, parent: ast.AST, name: str) -> Iterator[ast.AST]:
    if isinstance(node, ast.stmt):
        yield from _statement(node)
    elif isinstance(node, ast.Compare):
        for k, operator in enumerate(node.ops):
            for other in _ORDER[type(operator)]:
                new = copy.deepcopy(node)
                new.ops[k] = other()
                yield new
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for k in range(len(node.values)):
            left = node.values[:k] + node.values[k + 1 :]
            yield left[0] if len(left) == 1 else ast.BoolOp(node.op, left)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant):
        yield from _constant(node, parent, name)
    elif isinstance(node, ast.Call):
        yield from _call(node)
    if name in ("test", "ifs") and isinstance(node, ast.Call | ast.Name | ast.Attribute):
        yield ast.UnaryOp(ast.Not(), node)  # type: ignore[arg-type]


def _statement(node: ast.stmt) -> Iterator[ast.stmt]:
    if isinstance(node, ast.Return):
        if node.value is None:
            yield ast.Pass()
        elif not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Raise | ast.Expr | ast.AugAssign | ast.Continue | ast.Break) or (
        isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)
    ):
        yield ast.Pass()


def _constant(node: ast.Constant, parent: ast.AST, name: str) -> Iterator[ast.Constant]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
        yield ast.Constant(value - 1)
    elif isinstance(value, str) and isinstance(parent, ast.keyword) and value in _WORDS:
        yield ast.Constant(_WORDS[value])
    elif isinstance(value, str) and _is_decimal(parent, name):
        yield ast.Constant(f"{float(value) * 1.01:.6g}")
        yield ast.Constant(f"{float(value) * 0.99:.6g}")


def _is_decimal(parent: ast.AST, name: str) -> bool:
    call = isinstance(parent, ast.Call) and name == "args"
    return call and isinstance(parent.func, ast.Name) and parent.func.id == "Decimal"


def _call(node: ast.Call) -> Iterator[ast.AST]:
    called = node.func
    if isinstance(called, ast.Name) and called.id in _NAMES:
        yield ast.Call(ast.Name(_NAMES[called.id], ast.Load()), node.args, node.keywords)
    elif isinstance(called, ast.Attribute) and called.attr in _NAMES:
        other = ast.Attribute(called.value, _NAMES[called.attr], ast.Load())
        yield ast.Call(other, node.args, node.keywords)
    elif isinstance(called, ast.Name) and called.id == "abs":
        yield node.args[0]


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
    return text if len(text) <= 90 else f"{text[:60]}...{text[-27:]}"
