"""Work in tasks whose results do not depend on who does them: one process, parts, or workers of Dask.

Lives here: `task` (a task, and who can do it), `plan` (the part of a run that one process takes), `journal`
(results of tasks that are done, in a file, so that a killed run goes on and parts come together) and
`cluster` (the same tasks on Dask's workers). Not here: what a task is; conversions, studies, sensitivity
analyses, random checkpoints and suites of golden vectors know that.
"""
