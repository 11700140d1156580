"""What proposes draft tokens. It knows no times.

accepted tokens and their hidden states -> drafter -> proposal, a chain or a tree of tokens
drafters: prompt_lookup, feature_drafter (a head on the target's states), language_model_drafter, drafting_ahead
"""
