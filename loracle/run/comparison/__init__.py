"""Finished runs read and paired on the test items that they share."""

from loracle.run.comparison.runs import compare_runs

__all__ = ["compare_runs"]
