"""What a task can be: the source of a string, of a module, or of a function that can stand alone."""

from __future__ import annotations

import itertools
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from typing import Any

TYPED_HINT = ": what is typed at a prompt has none before Python 3.13"


class GlobalsUsed(ValueError):
    """A function uses names that the other side does not have: ``args[1]`` lists them.

    Its text says what to do with each.
    """

    advice = ""

    def __str__(self) -> str:
        return f"{self.args[0]}{self.advice}"


def task_of(source: object, kwargs: dict[str, Any]) -> tuple[str, str | None, str | None, dict[str, Any]]:
    """What CHANNEL_EXEC carries: source text, file name, function name, kwargs."""
    if isinstance(source, types.FunctionType):
        text = _without_foreign_annotations(_source_of_function(source), source.__code__)
        return (text, source.__code__.co_filename, source.__name__, kwargs)
    if kwargs:
        raise TypeError("can't pass kwargs to non-function remote_exec")
    if isinstance(source, types.ModuleType):
        return (*_source_of_module(source), None, {})
    if callable(source):
        raise ValueError(f"only functions written in Python can be executed remotely, not {source!r}")
    if not _is_text(source):
        raise TypeError(f"source must be a string, a function or a module, not {source!r}")
    # lazy: start-up speed
    import textwrap

    return (textwrap.dedent(str(source)), None, None, {})


def _is_text(source: object) -> bool:
    """Whether source is a string, or an object that has been made to read as one; what names a file is not."""
    own = isinstance(type(source).__str__, types.FunctionType)
    return isinstance(source, str) or (own and not hasattr(source, "__fspath__"))


def _source_of_module(module: types.ModuleType) -> tuple[str, str | None]:
    # lazy: start-up speed
    import inspect
    import linecache

    # The file may have changed since it was read for a traceback.
    linecache.checkcache()
    return inspect.getsource(module), inspect.getsourcefile(module)


def _source_of_function(function: types.FunctionType) -> str:
    """The source of function, dedented, below as many newlines as keep the line numbers of its file."""
    # lazy: start-up speed
    import inspect
    import textwrap

    if function.__name__ == "<lambda>":
        raise ValueError("can't evaluate lambda functions")
    code = function.__code__
    parameters = code.co_varnames[: code.co_posonlyargcount + code.co_argcount]
    if not parameters or parameters[0] != "channel":
        raise ValueError("expected first function argument to be `channel`")
    if function.__closure__ is not None:
        used = ", ".join(code.co_freevars)
        raise ValueError(f"functions with closures can't be passed: {function.__name__} uses {used}")
    for kind, is_one in (
        ("an asynchronous function", inspect.iscoroutinefunction),
        ("an asynchronous generator", inspect.isasyncgenfunction),
        ("a generator", inspect.isgeneratorfunction),
    ):
        if is_one(function):
            raise ValueError(f"{function.__name__}() is {kind}: calling it would not run it")
    try:
        lines, lineno = inspect.getsourcelines(function)
    except (OSError, TypeError) as exc:
        hint = TYPED_HINT if code.co_filename == "<stdin>" else ""
        raise ValueError(f"can't find source file for {function}{hint}") from exc
    source = textwrap.dedent("".join(lines))
    used_globals = _find_non_builtin_globals(source, code)
    if used_globals:
        error = GlobalsUsed("the use of non-builtin globals isn't supported", used_globals)
        advice = "; ".join(_advice(name, function) for name in dict.fromkeys(used_globals))
        error.advice = f" ({function.__name__}() is sent without them): {advice}"
        raise error
    return "\n" * (lineno - 1) + source


def _advice(name: str, function: types.FunctionType) -> str:
    """What to do about the global of that name, which function uses."""
    if name not in function.__globals__:
        return f"{name} is not defined"
    value = function.__globals__[name]
    if isinstance(value, types.ModuleType):
        return f"import {value.__name__}{'' if name == value.__name__ else f' as {name}'} inside the function"
    origin = getattr(value, "__module__", None)
    if origin == function.__module__ and hasattr(value, "__qualname__"):
        return f"define {name} inside the function"
    for place in _packages_of(origin) if isinstance(origin, str) else ():
        if getattr(sys.modules.get(place), name, None) is value:
            return f"from {place} import {name} inside the function"
    return f"pass {name} as an argument"


def _packages_of(module: str) -> list[str]:
    """The module, or, where it is private as pathlib._local is, also the packages it is in, outermost first."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)] if "._" in module else [module]


def _find_non_builtin_globals(source: str, codeobj: types.CodeType) -> list[str]:
    """The names that source uses and neither it nor the builtins define; names in annotations do not count."""
    # lazy: start-up speed
    import ast

    tree = ast.parse(source)
    known = _known_names(tree, codeobj)
    left_out = {node for annotation in _annotations(tree) for node in ast.walk(annotation)}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in left_out)
    return [node.id for node in nodes if node.id not in known]


def _without_foreign_annotations(source: str, codeobj: types.CodeType) -> str:
    """The source with a 0 for each annotation that uses a name which the other side may lack; its lines are kept."""
    # lazy: start-up speed
    import ast

    tree = ast.parse(source)
    known = _known_names(tree, codeobj)
    text = source.encode()  # the offsets of a tree are those of bytes
    starts = [0, *itertools.accumulate(map(len, text.splitlines(keepends=True)))]
    for node in sorted(_annotations(tree), key=lambda node: (node.lineno, node.col_offset), reverse=True):
        if any(isinstance(inner, ast.Name) and inner.id not in known for inner in ast.walk(node)):
            assert node.end_lineno is not None and node.end_col_offset is not None, "parsed trees have ends"
            start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            text = text[:start] + b"0" + b"\\\n" * (node.end_lineno - node.lineno) + text[end:]
    return text.decode()


def _annotations(tree: ast.Module) -> list[ast.expr]:
    """Those of parameters, results and local variables; those in the body of a class are part of what it does."""
    # lazy: start-up speed
    import ast

    nodes = list(ast.walk(tree))
    in_classes = {inner for node in nodes if isinstance(node, ast.ClassDef) for inner in node.body}
    found: list[ast.expr | None] = []
    for node in nodes:
        if isinstance(node, ast.arg) or (isinstance(node, ast.AnnAssign) and node not in in_classes):
            found.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(node.returns)
    return [annotation for annotation in found if annotation is not None]


def _known_names(tree: ast.Module, codeobj: types.CodeType) -> set[str]:
    # lazy: start-up speed
    import ast
    import builtins

    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    assigned = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    return assigned | set(vars(builtins)) | _local_names(codeobj)


def _local_names(codeobj: types.CodeType) -> set[str]:
    inner = (const for const in codeobj.co_consts if isinstance(const, types.CodeType))
    return {codeobj.co_name, *codeobj.co_varnames, *codeobj.co_cellvars}.union(*map(_local_names, inner))
