"""The pool of `eisbach.processes`, under the name that the data's own modules use."""

from eisbach.processes import process_pool

__all__ = ["process_pool"]
