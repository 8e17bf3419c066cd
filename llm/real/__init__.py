"""The paper's comparison on a real pre-trained base: its weights, protocol, runs, scores and claims."""
