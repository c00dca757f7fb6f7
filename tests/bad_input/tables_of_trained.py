"""The cases of the commands on a trained network, together."""

from tests.bad_input import table_cost, table_export, table_inspect, table_prune, table_sensitivity, table_shrink

__all__ = ["CASES"]

CASES = [
    *table_inspect.CASES,
    *table_prune.CASES,
    *table_sensitivity.CASES,
    *table_shrink.CASES,
    *table_export.CASES,
    *table_cost.CASES,
]
