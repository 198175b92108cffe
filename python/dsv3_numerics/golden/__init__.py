"""Golden vectors: inputs of several kinds, what the operations of this package make of them, and a manifest.

Lives here: `write` of one operation (casts, quantization, products, those of training, parts of the model, a
whole forward), `write_suite` of the set that a project needs, and `verify`. The same call writes the same
bytes on every machine: layers and models are run in the arithmetic of `canonical`. Results of others are held
against such a folder by `compare`, which reads the manifests too.
"""

from .canonical import Canonical
from .operations import OPERATIONS
from .sources import real_matrix
from .suites import SUITES, write_suite
from .verifying import Verified, verify
from .writing import FORMS, write

__all__ = [
    "FORMS",
    "OPERATIONS",
    "SUITES",
    "Canonical",
    "Verified",
    "real_matrix",
    "verify",
    "write",
    "write_suite",
]
