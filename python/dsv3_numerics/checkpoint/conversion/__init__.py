"""Conversion of checkpoints, file by file, in bounded memory.

Lives here: `convert`. `run` does one conversion from the checks before it to the report after it; `plan`
decides what becomes of each tensor, `steps` does it chunk by chunk, `pipeline` has files and threads,
`worker` is that as tasks, for this process or others. How weights are stored is known in
`dsv3_numerics.checkpoint.dialects`.
"""

from .run import ConvertReport, convert

__all__ = ["ConvertReport", "convert"]
