"""The networks of draft heads: those that training teaches, and those that others have trained.

config: the sizes that decide a head's weights -> draft_head, eagle3: fusion and decoder blocks in torch
published: a publisher's directory -> one of these networks
level_fusion, taps: levels of the target -> the feature that EAGLE-3 reads
unrolling: a network -> chains from every position of a text
"""
