"""The regression model of the paper, its least-squares estimator, and the measurement of its rates."""
