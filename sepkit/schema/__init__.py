"""A signature, inspected once at registration → a JSON Schema and a compiled binder of arguments.

Knows nothing of apps, frames or transports. `signature.py` reads functions, `types.py` annotations, `forms.py` has the
loaders and their schemas, `raw.py` stands in for them where the author gave a JSON Schema.
"""

from .hints import HintError, resolve_hints, settle_class_hints
from .signature import Signature, compile_type, inspect_signature, is_context_name, schema_of

__all__ = [
    "HintError",
    "Signature",
    "compile_type",
    "inspect_signature",
    "is_context_name",
    "resolve_hints",
    "schema_of",
    "settle_class_hints",
]
