"""How many tokens are drafted in a round, and by whom.

    curve_measurement -> time_curves (stored by curve_cache) -> planner <- acceptance_rates
    planner: the drafts with the most expected tokens per millisecond; source_choice: whose drafts

It knows no graph.
"""
