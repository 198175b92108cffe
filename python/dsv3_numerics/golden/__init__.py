"""Golden vectors: inputs of several kinds, what the operations of this package make of them, and a manifest.

Lives here: `write` of one operation (cast, quantize, logfmt, product) and `write_suite` of the set that a
project needs. The same call writes the same bytes on every machine. Results of others are held against such a
folder by `compare`, which reads the manifests too.
"""

from ..compare.manifest import verify
from .operations import OPERATIONS
from .suites import SUITES, write_suite
from .writing import FORMS, write

__all__ = ["FORMS", "OPERATIONS", "SUITES", "verify", "write", "write_suite"]
