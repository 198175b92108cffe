"""Checkpoints on disk: opened whole as a mapping of arrays, or read in pieces.

`open` gives the tensors of a file, a sharded folder or a model cache as arrays that lie in the mapped files,
FP8 weights joined with their scales. `open_source` lists tensors to be read by rows and columns with plain
file reads, so that memory is bounded by what is asked for. Files come from strangers: whatever is wrong with
one is a `CheckpointError` that names the file. What is done with the values belongs to
`dsv3_numerics.study`.
"""

from .conversion import ConvertReport, convert
from .dialects import DIALECTS, Dialect
from .inspection import Inspection, inspect
from .reader import Checkpoint, open
from .readers import ArrayTensor, CheckpointError, Rows, Tensor
from .saving import save
from .scan import TensorInfo
from .sources import Skipped, Source, array_tensor, checkpoint_source, open_source
from .stored import StoredWeight

__all__ = [
    "DIALECTS",
    "ArrayTensor",
    "Checkpoint",
    "CheckpointError",
    "ConvertReport",
    "Dialect",
    "Inspection",
    "Rows",
    "Skipped",
    "Source",
    "StoredWeight",
    "Tensor",
    "TensorInfo",
    "array_tensor",
    "checkpoint_source",
    "convert",
    "inspect",
    "open",
    "open_source",
    "save",
]
