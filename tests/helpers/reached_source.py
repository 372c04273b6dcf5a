"""Which definitions of handloom's source a stage reaches, and a hash of what they say.

Works on files alone, so that a changed copy can be hashed too. Names lead from a definition to the
definitions, imports and modules that they stand for; a class counts as a whole. Comments,
docstrings, line breaks, the order of definitions and the version of Python change no hash.
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

Place = tuple[str, str]
"""A module and a top-level name in it; an empty name stands for the whole module."""
Imports = ast.Import | ast.ImportFrom
UNSAID = {"ctx", "kind", "type_comment", "type_ignores", "type_params"}


class Module:
    """The top-level statements of a file by the names that they bind, and what it imports.

    Attributes:
        statements: by name; under the empty name those that bind none.
        imports: dotted origin of each imported name, wherever in the file it is imported.
    """

    def __init__(self, path: Path) -> None:
        tree = ast.parse(path.read_text())
        self.statements: dict[str, list[ast.stmt]] = defaultdict(list)
        for statement in tree.body:
            if not isinstance(statement, Imports) and not is_text(statement):
                for name in set(bound(statement)) or {""}:
                    self.statements[name].append(statement)
        self.imports: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, Imports):
                prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                for alias in node.names:
                    self.imports[alias.asname or alias.name] = prefix + alias.name


class Source:
    """The source in a checkout.

    Args:
        root: the checkout, or a copy of it.
        left_out: dotted names of modules and definitions that are not followed and count for
            nothing.
    """

    def __init__(self, root: Path, left_out: Iterable[str] = ()) -> None:
        self.root, self.left_out = root, frozenset(left_out)
        self._module = cache(self._read)
        self._contents = cache(lambda place: list(self._found(place)))  # several stages reach it

    def hashes(self, roots: Iterable[Place]) -> dict[str, str]:
        """For each module a hash of its definitions that are reached from the roots."""
        said: dict[str, set[str]] = defaultdict(set)
        seen: set[Place] = set()
        waiting = list(roots)
        while waiting:
            place = waiting.pop()
            if place in seen or {place[0], ".".join(place)} & self.left_out:
                continue
            seen.add(place)
            for target, text in self._contents(place):
                waiting += target
                said[place[0]] |= text
        return {name: digest(texts) for name, texts in sorted(said.items()) if texts}

    def _found(self, place: Place) -> Iterator[tuple[list[Place], set[str]]]:
        """Where a place leads, and what it says itself."""
        name, definition = place
        module = self._module(name)
        if module is None:
            return
        if definition in module.imports:
            yield self._targets(module.imports[definition], ""), set()
        elif definition:
            statements = module.statements[definition] + module.statements[""]
            yield from (self._statement(place[0], module, one) for one in statements)
        else:
            yield [(name, one) for one in module.statements if one], set()

    def _statement(
        self, name: str, module: Module, statement: ast.stmt
    ) -> tuple[list[Place], set[str]]:
        targets, texts = [], {plain(statement)}
        for used, attribute in uses(statement):
            if used in module.imports:
                origin = module.imports[used]
                found = self._targets(origin, attribute)
                targets += found
                texts |= set() if found or origin.startswith("handloom.") else {f"{used}={origin}"}
            elif used in module.statements:
                targets.append((name, used))
        return targets, texts

    def _targets(self, origin: str, attribute: str) -> list[Place]:
        """The place that an import stands for; none where it is not of handloom."""
        if self._module(origin):
            return [(origin, attribute)]
        parent, _, name = origin.rpartition(".")
        return [(parent, name)] if self._module(parent) else []

    def _read(self, name: str) -> Module | None:
        package, *inside = name.split(".")
        if package != "handloom" or not inside:
            return None
        base = self.root.joinpath(package, *inside)
        files = (base.with_suffix(".py"), base / "__init__.py")
        return next((Module(file) for file in files if file.is_file()), None)


def bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a top-level statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def uses(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """Each name that is read, with the attribute that is taken of it, if any."""
    nodes = list(ast.walk(statement))
    dotted = [n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    held = {id(node.value) for node in dotted}
    yield from ((node.value.id, node.attr) for node in dotted if isinstance(node.value, ast.Name))
    yield from ((n.id, "") for n in nodes if isinstance(n, ast.Name) and id(n) not in held)


def plain(node: object) -> str:
    """What a piece of syntax says, the same in every version of Python."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if name not in UNSAID]
        told = [f"{name}={plain(value)}" for name, value in fields if value not in (None, [])]
        return f"{type(node).__name__}({','.join(told)})"
    if isinstance(node, list):
        return f"[{','.join(plain(one) for one in node if not is_text(one))}]"
    return repr(node)


def is_text(node: object) -> bool:
    """Whether this is a docstring, of whatever it stands behind."""
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)


def digest(texts: Iterable[str]) -> str:
    """A short hash of texts in any order."""
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:12]
