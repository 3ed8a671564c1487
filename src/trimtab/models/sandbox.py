"""A Jinja environment in which untrusted chat templates can neither reach Python nor run away.

Jinja's own sandbox keeps templates away from Python's internals, but lets them loop, multiply strings and
print nested lists without bound. Here the parsed template is rewritten so that every loop, comparison, slice
and concatenation passes through this class; filters, tests, operators and calls do so by Jinja's own hooks.
Each is paid to the meter before it runs. Only listed filters and methods exist.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sized
from string import Formatter
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import _PassArg

from trimtab.models.growth import (
    MOST_BITS,
    check_growth,
    check_percent,
    check_power,
    check_product,
    check_widths,
)
from trimtab.models.meter import SLOT, Exhausted, Meter
from trimtab.models.template_rewrite import Generation, Rewrite

LONGEST_RANGE = 10_000

# Filters that look only at the outside of their value, so that it need not be weighed.
SHALLOW_FILTERS = frozenset({
    "default", "d", "length", "count", "first", "last", "list", "reverse", "map", "select", "reject",
    "selectattr", "rejectattr", "items", "attr", "batch", "slice",
})  # fmt: skip
FILTERS = SHALLOW_FILTERS | {
    "abs", "capitalize", "center", "dictsort", "e", "escape", "float", "format", "groupby", "indent", "int",
    "join", "lower", "max", "min", "replace", "round", "safe", "sort", "string", "sum", "title", "tojson",
    "trim", "truncate", "unique", "upper", "wordcount",
}  # fmt: skip
DEEP_TESTS = frozenset({"==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", "ge", ">=", "<", "lt",
                        "lessthan", "<=", "le", "in", "lower", "upper"})  # fmt: skip

METHODS: dict[type, frozenset[str]] = {
    str: frozenset({
        "capitalize", "casefold", "center", "count", "endswith", "expandtabs", "find", "index", "isalnum",
        "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable",
        "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix",
        "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split",
        "splitlines", "startswith", "strip", "swapcase", "title", "upper", "zfill",
    }),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    int: frozenset({"bit_length"}),
    float: frozenset({"is_integer"}),
}  # fmt: skip
SHALLOW_METHODS = frozenset({"get", "items", "keys", "values", "copy"})


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template. Its meter is set anew for each rendering, one rendering at a time."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # folding constants would run filters while the template is only being read
            extensions=["jinja2.ext.loopcontrols", Generation],
            finalize=_write,
        )
        self.meter = Meter()
        self.globals = {"range": self._range, "dict": dict, "namespace": self.globals["namespace"]}
        self.filters["tojson"] = _tojson
        self.filters = {name: self._paid(name, self.filters[name]) for name in sorted(FILTERS)}
        self.filters |= {"!loop": _loop, "!weigh": _weigh, "!concat": _concat, "!slice": _slice}
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: self._tested(name, test) for name, test in tests.items()}

    def allow(self, name: str, function: Callable[..., Any]) -> None:
        """Make a function callable from the template."""
        self.globals[name] = function

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        Rewrite().visit(template)
        return template

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.meter.step()
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` in the sandbox's own way; the result answers to `call` below."""
        target = getattr(value, "__self__", None)
        if not isinstance(target, str) or getattr(value, "__name__", "") not in ("format", "format_map"):
            return None
        return _Format(self, target, mapping=value.__name__ == "format_map")

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Refuse at once; by Jinja's custom such a name would print as nothing."""
        raise SecurityError(f"attribute {attribute[:60]!r} of {type(obj).__name__!r}")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.meter.step()
        if operator == "*":
            check_product(self.meter, left, right)
        elif operator == "**":
            check_power(left, right)
        elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
            unit = 1 if isinstance(left, str) else SLOT
            self.meter.make((len(left) + len(right)) * unit)
        elif operator == "%" and isinstance(left, str):
            check_percent(self.meter, left, right)
        return self.binop_table[operator](left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # The template's own keywords come along, so this method's names must not collide with them.
        __self._check_call(__obj, args, kwargs)
        if isinstance(__obj, LoopContext) and args:
            args = (_Counted(__self.meter, args[0]), *args[1:])
        return __self._settled(__context.call(__obj, *args, **kwargs))

    def _check_call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.meter.step()
        if isinstance(function, Undefined):
            return  # calling it raises the right error
        if isinstance(function, Macro | _Format):
            return
        target = getattr(function, "__self__", None)
        if isinstance(function, LoopContext) or isinstance(target, LoopContext):
            self.meter.weigh(list(args))
            return
        if any(function is known for known in self.globals.values()):
            self.meter.weigh([*args, *kwargs.values()])
            return
        name = getattr(function, "__name__", type(function).__name__)
        if not any(isinstance(target, kind) and name in names for kind, names in METHODS.items()):
            raise SecurityError(f"{name!r} of {type(target).__name__!r} is not safely callable")
        self.meter.weigh([*args, *kwargs.values()])
        if name not in SHALLOW_METHODS:
            self.meter.weigh(target)
        check_growth(self.meter, f".{name}", target, args, kwargs)

    def _settled(self, value: Any) -> Any:
        """A result with its size paid; iterators become lists, so that nothing runs later and unpaid."""
        if isinstance(value, str):
            self.meter.make(len(value))
        elif isinstance(value, Iterator) and not isinstance(value, LoopContext):
            value = list(_Counted(self.meter, value))
        elif isinstance(value, list | tuple):
            self.meter.make(SLOT * len(value))
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise Exhausted("makes a number that is too large")
        return value

    def _range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        if abs(numbers.stop - numbers.start) > LONGEST_RANGE * abs(numbers.step):
            raise Exhausted(f"asks for a range of more than {LONGEST_RANGE:,} numbers")
        return numbers

    def _paid(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that pays first and whose result is settled."""
        wanted = _PassArg.from_obj(function)

        @pass_context  # also keeps Jinja from running the filter while it compiles the template
        def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
            meter = self.meter
            meter.step()
            if name not in SHALLOW_FILTERS:
                meter.weigh(value)
            elif isinstance(value, Sized) and name not in (
                "length",
                "count",
                "default",
                "d",
                "first",
                "last",
            ):
                meter.step(SLOT * len(value))
            meter.weigh([*args, *kwargs.values()])
            check_growth(meter, name, value, args, kwargs)
            if wanted is None:
                return self._settled(function(value, *args, **kwargs))
            given = {_PassArg.context: context, _PassArg.eval_context: context.eval_ctx}.get(wanted, self)
            return self._settled(function(given, value, *args, **kwargs))

        return run

    def _tested(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A test that pays first."""
        # The environment is the only thing that tests ask for.
        before: tuple[Any, ...] = (self,) if _PassArg.from_obj(function) else ()

        @pass_context
        def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
            self.meter.step()
            if name in DEEP_TESTS:
                self.meter.weigh([value, *args, *kwargs.values()])
            return function(*before, value, *args, **kwargs)

        return run


def _meter(context: Context) -> Meter:
    meter: Meter = context.environment.meter  # type: ignore[attr-defined]
    return meter


@pass_context
def _write(context: Context, value: Any) -> Any:
    """Pay for a value on its way into the output."""
    meter = _meter(context)
    meter.write(len(value) if isinstance(value, str) else meter.weigh(value))
    return value


@pass_context
def _loop(context: Context, value: Any) -> _Counted:
    return _Counted(_meter(context), value)


@pass_context
def _weigh(context: Context, value: Any) -> Any:
    _meter(context).weigh(value)
    return value


@pass_context
def _slice(context: Context, value: Any) -> Any:
    if isinstance(value, Sized):
        _meter(context).make(len(value) * (1 if isinstance(value, str) else SLOT))
    return value


@pass_context
def _concat(context: Context, values: list[Any]) -> str:
    meter = _meter(context)
    meter.make(sum(len(value) if isinstance(value, str) else meter.weigh(value) for value in values))
    return "".join(map(str, values))


class _Counted:
    """An iterable whose every element is paid for; it has a length where the original has one."""

    __slots__ = ("_meter", "_values")

    def __init__(self, meter: Meter, values: Iterable[Any]) -> None:
        self._meter, self._values = meter, values

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._meter.step()
            yield value

    def __len__(self) -> int:
        return len(self._values)  # type: ignore[arg-type]  # a TypeError is how Jinja learns there is none


class _Format:
    """A string's `format` or `format_map`: no attributes of Python, no width that makes gigabytes."""

    __slots__ = ("_mapping", "_sandbox", "_text")

    def __init__(self, sandbox: Sandbox, text: str, *, mapping: bool) -> None:
        self._sandbox, self._text, self._mapping = sandbox, text, mapping

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        self._sandbox.meter.step(len(self._text))
        names = dict(*args) if self._mapping else kwargs
        return _BoundedFormatter(self._sandbox).vformat(self._text, () if self._mapping else args, names)


class _BoundedFormatter(SandboxedFormatter):
    def convert_field(self, value: Any, conversion: Any) -> Any:
        sandbox: Any = self._env
        sandbox.meter.weigh(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        sandbox: Any = self._env
        check_widths(sandbox.meter, format_spec)
        sandbox.meter.make(sandbox.meter.weigh(value))
        return Formatter.format_field(self, value, format_spec)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates expect it: not escaped for HTML, other scripts left as they are."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
