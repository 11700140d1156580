"""What proposes draft tokens.

    kept tokens and their hidden states -> drafter, with its shapes -> proposal, a chain or a tree (draft_tree)
    drafters: prompt_lookup, feature_drafter (a head on the target's states), language_model_drafter, drafting_ahead
    decaying_ratio: a mean in which newer observations count more

It knows no times.
"""
