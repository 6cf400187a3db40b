"""Docstrings fill descriptions."""

import subprocess
import sys
from typing import Annotated, Any

import pytest

from sepkit.schema import inspect_signature


def google(a: int, b: Annotated[str, "From Annotated."], c: int = 1) -> str:  # noqa: D417  (c is left out to see it)
    """Do it.

    In two paragraphs.

    Args:
        a (int): The first,
            on two lines.
        b: From the docstring.

    Returns:
        Something.
    """
    raise NotImplementedError


def numpy(a: int, b: Annotated[str, "From Annotated."], c: int = 1) -> str:  # noqa: D417
    """Do it.

    In two paragraphs.

    Parameters
    ----------
    a : int
        The first,
        on two lines.
    b : str
        From the docstring.

    Returns
    -------
    str
        Something.
    """
    raise NotImplementedError


def sphinx(a: int, b: Annotated[str, "From Annotated."], c: int = 1) -> str:
    """Do it.

    In two paragraphs.

    :param a: The first,
        on two lines.
    :type a: int
    :param b: From the docstring.
    :returns: Something.
    """
    raise NotImplementedError


@pytest.mark.parametrize("fn", [google, numpy, sphinx])
def test_a_docstring_describes_the_parameters_and_annotated_wins(fn: Any) -> None:
    """Google, NumPy and Sphinx docstrings fill the descriptions; ``Annotated`` wins."""
    signature = inspect_signature(fn, what="tool 'f'", contexts=())
    described = {name: part.get("description") for name, part in signature.parameters["properties"].items()}
    assert described == {"a": "The first, on two lines.", "b": "From Annotated.", "c": None}
    assert signature.description == "Do it.\n\nIn two paragraphs."


@pytest.mark.parametrize(
    ("docstring", "description"),
    [
        (None, ""),
        ("One line.", "One line."),
        ("Do it.\n\nReturns:\n    Something.", "Do it."),
        ("Do it.\n\nExample:\n    do()\n\nArgs:\n    x: X.\n\nNote:\n    More.", "Do it.\n\nExample:\n    do()"),
        (
            "Parse args: all of them.\n\nReturns: a lot, in prose.",
            "Parse args: all of them.\n\nReturns: a lot, in prose.",
        ),
        ("Args:\n    x: X.", ""),
    ],
)
def test_the_description_stops_before_the_sections(docstring: str | None, description: str) -> None:
    """The tool's description ends before the sections of the docstring."""

    def f(x: int = 0) -> None: ...

    f.__doc__ = docstring
    assert inspect_signature(f, what="tool 'f'", contexts=()).description == description


def test_one_numpy_line_may_describe_several_parameters() -> None:
    def f(x: int, y: int) -> None:
        """Do it.

        Parameters
        ----------
        x, y : int
            A coordinate.
        """

    properties = inspect_signature(f, what="tool 'f'", contexts=()).parameters["properties"]
    assert [part["description"] for part in properties.values()] == ["A coordinate.", "A coordinate."]


@pytest.mark.parametrize(
    "items",
    [
        "    - city: The city.\n    - unit: The unit: C.",
        "- city: The city.\n- unit: The unit: C.",
        "    * `city` (str): The city.\n    * `unit` (str, optional): The unit: C.",
        "    `city`: The city.\n    **unit**: The unit: C.",
        "    **city:** The city.\n    **unit** (str): The unit: C.",
        "    `city: str`: The city.\n    unit - The unit: C.",
        "    1. city -- The city.\n    2. unit: The unit:\n       C.",
        "    city: The city.\n    unit:\n        The unit: C.",
    ],
)
def test_parameters_that_are_written_as_a_list_are_described(items: str) -> None:
    """Dashes, backticks and bold names are as frequent as Google's own form; before, their text was lost."""

    def f(city: str, unit: str = "C") -> None: ...

    f.__doc__ = f"Get the weather.\n\nArgs:\n{items}\n\nReturns:\n    - city: Not this one."
    signature = inspect_signature(f, what="tool 'f'", contexts=())
    described = {name: part.get("description") for name, part in signature.parameters["properties"].items()}
    assert described == {"city": "The city.", "unit": "The unit: C."}
    assert signature.description == "Get the weather."


def test_a_line_that_describes_nothing_costs_no_other_its_text() -> None:
    """Before, one line without a colon lost all of them."""

    def f(x: int, y: int) -> None:
        """Do it.

        Args:
            x: The first
            as told above
            y: The second.
        """

    properties = inspect_signature(f, what="tool 'f'", contexts=()).parameters["properties"]
    assert [part["description"] for part in properties.values()] == ["The first as told above", "The second."]


def test_nothing_is_imported_for_a_plain_signature() -> None:
    """``run`` loads a parser, constraints or a validator only for an author who uses them."""
    code = (
        "import sys; from sepkit.schema import inspect_signature\n"
        "def f(x: int, y: list[str] | None = None):\n"
        "    '''Do it.\\n\\n    Returns:\\n        Something.\\n    '''\n"
        "inspect_signature(f, what='f', contexts=()).bind({'x': '5'})\n"
        "print({'docstring_parser', 'annotated_types', 'jsonschema_rs', 'decimal'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "set()\n"
