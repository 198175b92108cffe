"""Two results side by side: where they differ, by how much, and why.

Lives here: `compare` of files, folders and arrays (statistics in bits, codes, ULP and errors), and the
explanations: `explain_quantization` and `explain_product` try what may have made a result from its inputs,
name all that reproduces it bit for bit, and classify what remains, with the counts behind each verdict.
"""

from .arrays import ArrayComparison, compare_arrays
from .explanation import Explanation, Fit
from .files import Comparison, compare
from .models import ModelComparison, compare_models
from .product import explain_product
from .quantization import explain_quantization

__all__ = [
    "ArrayComparison",
    "Comparison",
    "Explanation",
    "Fit",
    "ModelComparison",
    "compare",
    "compare_arrays",
    "compare_models",
    "explain_product",
    "explain_quantization",
]
