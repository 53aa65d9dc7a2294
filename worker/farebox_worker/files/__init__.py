"""The files of a run: the input lines, the output file, and the sidecar that ties a run to its batch.

Pure file logic. It knows no Redis, no event loop and no command line, and it never decides what to do next.
"""

from farebox_worker.files.answers import output_line
from farebox_worker.files.lines import Line, ResolvedModel, read_jobs
from farebox_worker.files.output import DiskFullError, OutputError, OutputFile, default_output
from farebox_worker.files.sidecar import Sidecar, sidecar_path
from farebox_worker.files.summary import ModelTotals, Summary, bad_line_report, summarize, validate

__all__ = [
    "DiskFullError",
    "Line",
    "ModelTotals",
    "OutputError",
    "OutputFile",
    "ResolvedModel",
    "Sidecar",
    "Summary",
    "bad_line_report",
    "default_output",
    "output_line",
    "read_jobs",
    "sidecar_path",
    "summarize",
    "validate",
]
