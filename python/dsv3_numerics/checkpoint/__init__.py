"""Checkpoints on disk, read in pieces.

`open_source` lists the tensors of a file or folder without reading their values; a tensor's values are read
by rows and columns with plain file reads, so that memory is bounded by what is asked for. Files come from
strangers: whatever is wrong with one is a `CheckpointError` that names the file. What is done with the values
belongs to `dsv3_numerics.study`.
"""

from .readers import ArrayTensor, CheckpointError, Rows, Tensor
from .sources import Skipped, Source, array_tensor, open_source

__all__ = [
    "ArrayTensor",
    "CheckpointError",
    "Rows",
    "Skipped",
    "Source",
    "Tensor",
    "array_tensor",
    "open_source",
]
