"""Which exceptions a workflow knows by its code."""

from types import ModuleType

from flujo_async import workflow
from flujo_async._plan.definition import definition_of

ASKED: list[str] = []

library = ModuleType("library")
library.parts = ModuleType("library.parts")  # type: ignore[attr-defined]
exec("class Named(Exception): pass\nclass Other(Exception): pass", vars(library))
exec("class Deep(Exception): pass\nclass Helped(Exception): pass", vars(library.parts))
library.__getattr__ = ASKED.append  # type: ignore[method-assign]


def _help() -> type[Exception]:
    first: type[Exception] = library.parts.Helped
    return first or _help()


@workflow
async def careful(name: str) -> str:
    """Name exceptions by their modules, here and in functions inside and outside."""

    def inside() -> type[Exception]:
        deep: type[Exception] = library.parts.Deep
        return deep

    try:
        return name
    except library.Named:
        return "named"
    except library.Missing:
        return "missing"
    except (inside(), _help()):
        return "by a function"


def test_it_knows_those_that_it_names_by_their_modules() -> None:
    """And no other; a module that answers for more than it has is not asked."""
    ASKED.clear()  # pytest asks everything that a test module has
    codec = definition_of(careful).codec()
    names = ["library:Named", "library.parts:Deep", "library.parts:Helped", "library:Other"]
    expected = [library.Named, library.parts.Deep, library.parts.Helped, None]
    assert [codec.error_class(name) for name in names] == expected
    assert ASKED == []
