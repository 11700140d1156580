"""What a graph is made of, what its passes cost on this machine, and what changing one does.

    graphs ──> diff         two graphs beside each other
           ──> profile      a forward's time by operator and by block, with node_costs
           ──> apply        a new bundle from graph passes over an old one
           ──> workshops ──> ablation ──> ablation_report

A graph is one of a bundle, or an ONNX file.
"""
