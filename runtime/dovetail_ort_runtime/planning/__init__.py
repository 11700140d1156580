"""How many tokens are drafted in a round, and by whom.

curve_measurement -> time_curves (kept in curve_cache) -> planner <- drafting.acceptance_rates
planner: the drafts whose expected tokens a millisecond are most
"""
