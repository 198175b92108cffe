"""Checkpoints on disk: opened whole as a mapping of arrays, or read in pieces.

`open` gives the tensors of a file, a sharded folder or a model cache as arrays that lie in the mapped files,
FP8 weights joined with their scales. `open_source` lists tensors to be read by rows and columns with plain
file reads, so that memory is bounded by what is asked for. Files come from strangers: whatever is wrong with
one is a `CheckpointError` that names the file. What is done with the values belongs to
`dsv3_numerics.study`.
"""

from .conversion import ConvertReport, convert
from .inspection import Inspection, inspect
from .reader import Checkpoint, open
from .readers import ArrayTensor, CheckpointError, Rows, Tensor
from .scan import TensorInfo
from .sources import Skipped, Source, array_tensor, open_source
from .write import save

__all__ = [
    "ArrayTensor",
    "Checkpoint",
    "CheckpointError",
    "ConvertReport",
    "Inspection",
    "Rows",
    "Skipped",
    "Source",
    "Tensor",
    "TensorInfo",
    "array_tensor",
    "convert",
    "inspect",
    "open",
    "open_source",
    "save",
]
