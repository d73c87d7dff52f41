"""docs/reference/sdk.md: what `leasehold.sdk` offers, from its signatures and docstrings.

What is on the page is what the package says in `__all__`, and what its public modules of `MODULES` say in theirs, where
they exist. A public name without a docstring is an error (`silent`).
"""

import ast
import enum
import importlib
import importlib.util
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Final, ForwardRef, is_typeddict

PACKAGE = "leasehold.sdk"
OURS = "leasehold"
"""Only what classes inherit from our own modules is shown."""
MODULES: Final = ("sync", "health", "router")
"""Modules of the package that are public beside it."""

_WIDTH: Final = 96

INTRODUCTION: Final = """
# SDK reference

Everything that is public in `leasehold.sdk`, from its source. Install it with `pip install 'leasehold[sdk]'`. Names
that are not here may change at any time.
"""


@dataclass(frozen=True)
class Public:
    """One name of a module."""

    module: str
    name: str
    value: Any

    @property
    def is_error(self) -> bool:
        """Whether it is raised."""
        return isinstance(self.value, type) and issubclass(self.value, BaseException)


def exists() -> bool:
    """Tell whether there is an SDK to write about."""
    found = importlib.util.find_spec(PACKAGE)
    return found is not None and found.origin is not None  # a folder without modules is none


def public(module: str) -> list[Public]:
    """Return what a module says is public: classes and functions first, then errors, each by name."""
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(loaded).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module
        ]
    found = [Public(module, name, getattr(loaded, name)) for name in names if not name.startswith("__")]
    return sorted(found, key=lambda one: (one.is_error, one.name.lower()))


def modules() -> list[str]:
    """Return the package and its public modules that exist."""
    wanted = (f"{PACKAGE}.{name}" for name in MODULES)
    return [PACKAGE, *(name for name in wanted if importlib.util.find_spec(name) is not None)]


def silent() -> list[str]:
    """Return the public names, and public methods of public classes, that say nothing about themselves."""
    found = []
    for module in modules():
        for one in public(module):
            if not callable(one.value):
                continue
            if not (own := one.value.__doc__) or own.startswith(
                f"{one.name}("
            ):  # what dataclasses write themselves
                found.append(f"{module}.{one.name}")
            if isinstance(one.value, type):
                found += [
                    f"{module}.{one.name}.{name}"
                    for name, member in methods(one.value)
                    if not inspect.getdoc(member)
                ]
    return found


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class, in the order of its source, those of our own bases too."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] != OURS:
            continue
        for name, member in vars(base).items():
            unwrapped = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if name.startswith("_") or name in seen:
                continue
            if inspect.isfunction(unwrapped) or isinstance(member, property):
                seen.add(name)
                yield name, member


def page(table: Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]) -> str:
    """Return the page as Markdown; `table` makes a table of a head and rows."""
    parts = [INTRODUCTION]
    for module in modules():
        parts += [f"## {module}\n", text(inspect.getdoc(importlib.import_module(module)) or "")]
        for one in public(module):
            parts += list(_entry(one, table))
    return "\n".join(parts).rstrip("\n") + "\n"


def _entry(one: Public, table: Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]) -> Iterator[str]:
    title = one.name if one.module == PACKAGE else f"{one.module.rpartition('.')[2]}.{one.name}"
    yield f"### {title}\n"
    value = one.value
    if isinstance(value, type) and issubclass(value, enum.Enum):
        yield text(inspect.getdoc(value) or "")
        notes = attribute_notes(value)
        yield table(
            ("Member", "Value", "Meaning"),
            (
                (
                    f"`{member.name}`",
                    f"`{member.value}`",
                    getattr(member, "meaning", "") or notes.get(member.name, ""),
                )
                for member in value
            ),
        )
        return
    if one.is_error:
        bases = ", ".join(f"`{base.__name__}`" for base in value.__bases__)
        yield f"An error; a kind of {bases}.\n"
    elif callable(value) and not is_typeddict(value):
        yield _code(signature(one.name, value))
    yield text(inspect.getdoc(value) or "")
    if not isinstance(value, type):
        return
    if is_dataclass(value) and fields(value):
        notes = attribute_notes(value)
        yield table(("Field", "Type", "Default", "Meaning"), _fields(value, notes))
    elif is_typeddict(value):
        notes = attribute_notes(value)
        rows = ((f"`{key}`", f"`{_named(kind)}`", notes.get(key, "")) for key, kind in _keys(value))
        yield table(("Key", "Type", "Meaning"), rows)
    for name, member in methods(value):
        yield f"#### {title}.{name}\n"
        if isinstance(member, property):
            given = getattr(member.fget, "__annotations__", {}).get("return", "")
            yield _code(f"{name}: {_named(given)}")
        else:
            yield _code(signature(name, getattr(value, name)))
        yield text(inspect.getdoc(member) or "")


def _fields(cls: type, notes: dict[str, str]) -> Iterator[tuple[str, ...]]:
    for one in fields(cls):  # type: ignore[arg-type]  it is a dataclass
        if one.name.startswith("_"):
            continue
        default = "" if one.default is MISSING else f"`{one.default!r}`"
        yield f"`{one.name}`", f"`{_named(one.type)}`", default, notes.get(one.name, "")


def _keys(cls: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a typed dictionary may hold, with its types as they are written."""
    for key, kind in cls.__annotations__.items():
        yield key, kind.__forward_arg__ if isinstance(kind, ForwardRef) else kind


def attribute_notes(cls: type) -> dict[str, str]:
    """Return the texts that stand below attributes in the source of a class and its bases, by attribute."""
    notes: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] != OURS:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for before, after in itertools.pairwise(body):
            if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                continue
            target = before.target if isinstance(before, ast.AnnAssign) else None
            if isinstance(before, ast.Assign):
                target = before.targets[0]
            if isinstance(target, ast.Name) and isinstance(after.value.value, str):
                notes[target.id] = " ".join(after.value.value.split())
    return notes


def signature(name: str, value: Any) -> str:
    """Return how it is called, with types, on several lines where one would be too long."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    parameters = [
        p for p in found.parameters.values() if p.name not in ("self", "cls") and not p.name.startswith("_")
    ]
    parts: list[str] = []
    for number, parameter in enumerate(parameters):
        before = parameters[number - 1].kind if number else None
        if parameter.kind is parameter.KEYWORD_ONLY and before not in (
            parameter.KEYWORD_ONLY,
            parameter.VAR_POSITIONAL,
        ):
            parts.append("*")
        parts.append(_parameter(parameter))
    ends = (
        ""
        if found.return_annotation in (inspect.Signature.empty, None, "None") or isinstance(value, type)
        else (f" -> {_named(found.return_annotation)}")
    )
    start = "async " if inspect.iscoroutinefunction(value) else ""
    line = f"{start}{name}({', '.join(parts)}){ends}"
    if len(line) <= _WIDTH:
        return line
    inner = "".join(f"    {part},\n" for part in parts)
    return f"{start}{name}(\n{inner}){ends}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    typed = "" if parameter.annotation is parameter.empty else f": {_named(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{typed}"
    default = parameter.default
    shown = repr(str(default)) if isinstance(default, enum.StrEnum) else repr(default)
    shown = "..." if " at 0x" in shown else shown
    return f"{stars}{parameter.name}{typed}{' = ' if typed else '='}{shown}"


def _named(annotation: Any) -> str:
    shown = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:leasehold(?:\.\w+)*|typing|collections\.abc|datetime)\.(?=\w)", "", shown).replace(
        "'", ""
    )


def _code(line: str) -> str:
    return f"```text\n{line}\n```\n"


def text(docstring: str) -> str:
    """Return a docstring as Markdown: double backticks become single ones, and examples stay examples."""
    return docstring.replace("``", "`") + "\n"
