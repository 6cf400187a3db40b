"""A signature, inspected once at registration → a JSON Schema and a compiled binder of arguments.

The one engine that reads authors' types: arguments, hooks' inputs, payloads, stored values. Knows nothing of apps,
frames or transports. `signature.py` reads functions, `types.py` annotations, `forms.py` has the loaders and their
schemas, `raw.py` stands in for them where the author gave a JSON Schema.
"""

from .constraints import Format
from .hints import code_of, docstring_of, show, underlying
from .outputs import Output, given_output, returned_output
from .signature import (
    Signature,
    ValueSignature,
    classes_in,
    compile_type,
    inspect_signature,
    inspect_value,
    schema_of,
    stored_type,
)

__all__ = [
    "Format",
    "Output",
    "Signature",
    "ValueSignature",
    "classes_in",
    "code_of",
    "compile_type",
    "docstring_of",
    "given_output",
    "inspect_signature",
    "inspect_value",
    "returned_output",
    "schema_of",
    "show",
    "stored_type",
    "underlying",
]
